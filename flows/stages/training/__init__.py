"""Steps of training: images are read, a recipe is followed, and tested in folds."""
