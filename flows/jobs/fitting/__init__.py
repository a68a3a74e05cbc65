"""Do a fit's units of work: statistics, altered slides, and scores of both witnesses."""
