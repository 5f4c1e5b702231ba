"""What the lab takes: measured, compared within one run, written down. ``docs/performance.md``."""
