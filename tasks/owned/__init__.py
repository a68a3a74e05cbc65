"""A slide's own normal: statistics by slide, and the reference that a slide's cells stand on."""
