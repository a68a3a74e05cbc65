"""Score cells against their slide, patient or night, or as their detector expects them."""
