"""Detectors, read from the store and verified once a process."""

from functools import lru_cache

from storage.models.detectors import load_detector, load_detector_card
from storage.store import Store, StoreError
from tasks.detector.detector import Detector


@lru_cache(maxsize=4)
def load_fitted_detector(store: Store, detector: str, digest: str) -> Detector:
    """A detector, read and verified once a process."""
    card = load_detector_card(store, detector)
    if card.digest != digest:
        raise StoreError(f"detector {detector} was replaced while it was in use")
    return Detector.from_arrays(load_detector(store, card))
