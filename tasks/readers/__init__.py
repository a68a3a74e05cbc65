"""Support blind reading of cells by persons: samples, verdicts and agreement."""
