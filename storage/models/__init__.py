"""Keep classifiers, class statistics and detectors, and never overwrite any."""
