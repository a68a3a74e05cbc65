"""Read what persons have said of a batch, and of which patients they are asked."""
