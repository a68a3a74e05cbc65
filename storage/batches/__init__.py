"""Store a batch: its manifest, ledger, features, segmentation and night."""
