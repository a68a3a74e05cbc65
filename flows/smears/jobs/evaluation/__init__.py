"""Define the jobs of an evaluation, which workers run."""
