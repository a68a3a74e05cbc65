"""Read detectors and laboratories from the store and verify them, once per process."""

from dataclasses import replace
from functools import lru_cache

from storage.models import classifiers, detectors, laboratories
from storage.store import Store
from tasks.detector import witnesses
from tasks.detector.detector import Detector
from tasks.detector.probabilities import Adaptation
from tasks.laboratories.learning import LaboratoryNormal
from tasks.reports.image_columns import PARASITIZED
from tasks.types import Numbers


@lru_cache(maxsize=4)
def load_fitted_detector(store: Store, card: detectors.DetectorCard) -> Detector:
    """Read and verify a detector, once per process."""
    return Detector.from_arrays(detectors.load_detector(store, card))


def load_detector_at(
    store: Store, card: detectors.DetectorCard, laboratory: laboratories.LaboratoryCard | None
) -> Detector:
    """Read a detector for a laboratory, at which slides and cells are compared with the
    laboratory's.

    The laboratory's discriminant diagnoses there, if it has one. Without a laboratory it is the
    plain detector.
    """
    detector = load_fitted_detector(store, card)
    if laboratory is None:
        return detector
    normal = load_laboratory_normal(store, laboratory)
    return with_discriminant(replace(detector, own=normal.own), normal.discriminant)


def with_discriminant(detector: Detector, discriminant: witnesses.Discriminant | None) -> Detector:
    """Put a discriminant in the place of a detector's own, unless it is None."""
    if discriminant is None or detector.witnesses is None:
        return detector
    return replace(detector, witnesses=replace(detector.witnesses, discriminant=discriminant))


def adaptation_at(laboratory: laboratories.LaboratoryCard | None) -> Adaptation | None:
    """Return a laboratory's adaptation of the diagnosis; None without one."""
    card = laboratory and laboratory.adaptation
    return Adaptation(card.scale, card.bias) if card and card.accepted else None


def adapted_logits(
    logits: Numbers, model: classifiers.ModelCard, laboratory: laboratories.LaboratoryCard | None
) -> Numbers:
    """Adapt logits (n, C) of a model to a laboratory, only for diagnoses and probabilities."""
    adaptation = adaptation_at(laboratory)
    if adaptation is None:
        return logits
    place = model.classes.index(PARASITIZED)
    return adaptation.of_logits(logits, model.temperature, place)


@lru_cache(maxsize=4)
def load_laboratory_normal(store: Store, card: laboratories.LaboratoryCard) -> LaboratoryNormal:
    """Read and verify the normal of a laboratory, once per process."""
    return LaboratoryNormal.from_arrays(laboratories.load_laboratory_arrays(store, card))
