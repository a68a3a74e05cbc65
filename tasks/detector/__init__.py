"""Score how far an image is from the fitted classes."""
