"""Tell people and other systems how a night goes."""
