"""Keep what slidewatch stores: only this package knows the paths and file formats of a store."""
