"""Describe slides: how they differ, which are smears, and what a cell is compared with."""
