"""What happens to a cell, in which order; events and reports."""
