"""Open slides in the formats that scanners and archives write."""
