"""Show the parasites behind a patient's call."""
