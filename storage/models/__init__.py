"""Keep classifiers, class statistics and detectors, none of which is ever overwritten."""
