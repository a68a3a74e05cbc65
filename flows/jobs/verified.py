"""Read detectors from the store and verify them, once per process."""

from dataclasses import replace
from functools import lru_cache

from storage.models import classifiers, detectors
from storage.store import Store
from tasks.detector import witnesses
from tasks.detector.detector import Detector
from tasks.detector.probabilities import Adaptation
from tasks.reports.image_columns import PARASITIZED
from tasks.types import Numbers


@lru_cache(maxsize=4)
def load_detector(store: Store, card: detectors.DetectorCard) -> Detector:
    """Read and verify a detector, once per process."""
    return Detector.from_arrays(detectors.load_detector(store, card))


def with_discriminant(detector: Detector, discriminant: witnesses.Discriminant | None) -> Detector:
    """Put a discriminant in the place of a detector's own, unless it is None."""
    if discriminant is None or detector.witnesses is None:
        return detector
    return replace(detector, witnesses=replace(detector.witnesses, discriminant=discriminant))


def adapted_logits(
    logits: Numbers, model: classifiers.ModelCard, card: detectors.DetectorCard
) -> Numbers:
    """Adapt logits (n, C) of a model by a detector, only for diagnoses and probabilities."""
    known = card.adaptation
    if known is None or not known.accepted:
        return logits
    place = model.classes.index(PARASITIZED)
    return Adaptation(known.scale, known.bias).of_logits(logits, model.temperature, place)
