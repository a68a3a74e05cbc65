"""Faults thrown at runs of flows: crashes, errors, power cuts, bad object stores, flipped bits."""
