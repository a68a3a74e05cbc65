"""Score how far an image lies from the fitted classes."""
