"""Run the steps that flows share."""
