"""Diagnose cells with a network, and take its features."""
