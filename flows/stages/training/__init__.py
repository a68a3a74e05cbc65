"""Carry out the steps of training: read images, follow a recipe, test it in folds."""
