"""Count the errors of a model's cells by slide, and choose the threshold that counts parasites."""
