"""Units of work of the wing that a worker runs."""
