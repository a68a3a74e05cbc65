"""Score cells against their slide, patient, night or laboratory."""
