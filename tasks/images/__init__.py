"""List images, and read their pixels."""
