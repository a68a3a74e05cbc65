"""Turn the scored images of an evaluation into the rows and the examples of its report."""
