"""Speak to Prefect: run flows and stages as its runs, and show batches in it."""
