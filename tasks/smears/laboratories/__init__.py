"""Learn a laboratory's own normal from its nights, and report what can be believed there."""
