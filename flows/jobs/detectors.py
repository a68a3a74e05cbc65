"""Read detectors from the store, and verify them, once a process."""

from functools import lru_cache

from storage.models.detectors import DetectorCard, load_detector
from storage.store import Store
from tasks.detector.detector import Detector


@lru_cache(maxsize=4)
def load_fitted_detector(store: Store, card: DetectorCard) -> Detector:
    """Read and verify a detector, once a process."""
    return Detector.from_arrays(load_detector(store, card))
