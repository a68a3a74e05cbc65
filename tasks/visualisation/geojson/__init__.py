"""GeoJSON that QuPath opens over a photograph or slide, and the same again when it was edited."""
