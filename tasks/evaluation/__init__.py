"""Try a detector on attacks, corruptions and other images, beside other scores."""
