"""Measure a detector on attacks, corruptions and foreign images, beside other detectors."""
