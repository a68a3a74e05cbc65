"""Compute everything by pure functions on arrays and tables, one module for each subject."""
