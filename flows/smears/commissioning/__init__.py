"""Commission laboratories: learn their nights, and make versions of them."""
