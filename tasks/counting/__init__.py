"""Count parasites: error rates of a counting threshold, and what a count says of a slide."""
