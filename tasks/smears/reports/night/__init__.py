"""Judge a night as a whole: its counts, how it differs from earlier ones, its light."""
