"""A sandboxed VM lab for out-of-tree Linux kernel modules."""

__version__ = "0.1.0"
