"""Support blind reading of cells by persons: samples, answers and agreement."""
