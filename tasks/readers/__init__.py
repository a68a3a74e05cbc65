"""Blind reading of cells by persons: what they are shown, what they say, and how far they agree."""
