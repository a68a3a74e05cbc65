"""Score cells against their slide, patient, night or site."""
