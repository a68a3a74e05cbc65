"""Keep what is known of smears: the wing of the store that may be removed."""
