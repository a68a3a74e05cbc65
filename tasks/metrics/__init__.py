"""Measure how well scores and diagnoses distinguish images."""
