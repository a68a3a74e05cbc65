"""Learn a laboratory's own normal from its nights, and say what may be believed there."""
