"""Read detectors and sites from the store and verify them, once per process."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard, load_detector
from storage.models.sites import SiteCard, load_site_arrays
from storage.store import Store
from tasks.detector.detector import Detector
from tasks.detector.probabilities import Adaptation
from tasks.reports.columns import PARASITIZED
from tasks.sites.learning import SiteNormal


@lru_cache(maxsize=4)
def load_fitted_detector(store: Store, card: DetectorCard) -> Detector:
    """Read and verify a detector, once per process."""
    return Detector.from_arrays(load_detector(store, card))


def load_detector_at(store: Store, card: DetectorCard, site: SiteCard | None) -> Detector:
    """Read a detector for a site, at which slides and cells are compared with the site's.

    Without a site it is the plain detector.
    """
    detector = load_fitted_detector(store, card)
    return detector if site is None else replace(detector, own=load_site_normal(store, site).own)


def adaptation_at(site: SiteCard | None) -> Adaptation | None:
    """Return a site's adaptation of the diagnosis; None without one."""
    card = site and site.adaptation
    return Adaptation(card.scale, card.bias) if card and card.accepted else None


def adapted_logits(
    logits: NDArray[np.floating], model: ModelCard, site: SiteCard | None
) -> NDArray[np.floating]:
    """Adapt logits (n, C) of a model to a site, only for diagnoses and probabilities."""
    adaptation = adaptation_at(site)
    if adaptation is None:
        return logits
    place = model.classes.index(PARASITIZED)
    return adaptation.of_logits(logits, model.temperature, place)


@lru_cache(maxsize=4)
def load_site_normal(store: Store, card: SiteCard) -> SiteNormal:
    """Read and verify the normal of a site, once per process."""
    return SiteNormal.from_arrays(load_site_arrays(store, card))
