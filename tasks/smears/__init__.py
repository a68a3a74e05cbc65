"""Compute what knows fields, slides, patients and laboratories."""
