"""Find cells in fields of view."""
