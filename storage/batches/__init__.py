"""Keep what belongs to one batch: manifest, ledger, features, segmentation, night."""
