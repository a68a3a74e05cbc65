"""Commands by which persons look at cells and labels, on sheets with pictures."""
