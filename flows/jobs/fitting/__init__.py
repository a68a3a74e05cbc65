"""Units of work of a fit: statistics, altered slides, and what both witnesses say."""
