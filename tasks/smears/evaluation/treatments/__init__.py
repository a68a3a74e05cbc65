"""Change images as attackers, cameras and files do."""
