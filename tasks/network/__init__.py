"""Diagnose cells with a network, and compute their features."""
