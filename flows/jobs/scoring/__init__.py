"""Score cells by what they are compared with: their slide, patient, night or site."""
