"""Count parasites: error rates of a counting threshold, and the meaning of a count."""
