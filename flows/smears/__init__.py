"""Run the wing, which knows fields, slides, patients and laboratories."""
