"""Jobs of an evaluation, which workers run."""
