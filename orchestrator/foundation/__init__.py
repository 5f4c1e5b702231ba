"""Foundations: errors, deadlines, the one module that starts processes."""
