"""Hold a laboratory that is being commissioned, under its lease."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from flows.cluster.client import Client
from flows.jobs.scoring.feature_rows import HeldFeatures
from flows.jobs.scoring.night import SlideRows
from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.screened import Screened
from flows.jobs.verified import load_detector
from flows.monitoring.console import tell, warn
from flows.smears.jobs.known_cells import is_negative
from storage.batches.manifests import Batch, list_batches, load_batch
from storage.leases import Lease, lease
from storage.models import classifiers, detectors
from storage.models.tunings import as_begun
from storage.smears import learned, segmentations
from storage.store import Store, StoreError, check_name, which
from tasks import bundles
from tasks.detector.slides.own_normal import OwnNormal
from tasks.smears.laboratories import learning

OTHERS = 4  # other batches in the store to try cells of
OTHER_CELLS = 100  # of each


class LaboratoryError(Exception):
    """A laboratory cannot be made from these nights."""


@dataclass(frozen=True)
class Laboratory:
    """A laboratory under its lease, and the fitted detector, the parent of its next one.

    ``known`` is its newest detector, if there is one.
    """

    client: Client
    held: Lease
    name: str
    known: detectors.DetectorCard | None
    detector: detectors.DetectorCard

    @property
    def store(self) -> Store:
        """Return the store, in which only the holder of the lease can write."""
        return self.held.store

    @cached_property
    def model(self) -> classifiers.ModelCard:
        """Load the card of the detector's model."""
        return detectors.load_model_of(self.store, self.detector)

    @cached_property
    def own(self) -> OwnNormal:
        """Load the normal of fitted slides; LaboratoryError if the detector has none."""
        return population(self.store, self.detector)

    def screened(self, batch: Batch) -> Screened:
        """Return a batch as it is judged without the laboratory, with its own tuning."""
        model = as_begun(self.store, batch, self.model)
        return Screened(self.store, batch, model, self.detector)

    def batch(self, night: detectors.LearnedNight) -> Batch:
        """Load the batch of a night."""
        return load_batch(self.store, night.batch, night.attempt)


def laboratory_lease(store: Store, laboratory: str) -> AbstractContextManager[Lease]:
    """Take the lease of a laboratory, after waiting for its present holder."""
    check_name("laboratory", laboratory)
    return lease(store, learned.FOLDER, laboratory, wait=True, on_wait=tell)


def find_laboratory(store: Store, name: str) -> detectors.DetectorCard | None:
    """Load the newest detector of a laboratory, if any; LaboratoryError if it was fitted."""
    check_name("laboratory", name)
    known = detectors.find_detector(store, name)
    if known is not None and (known.parent is None or known.name == name):
        raise LaboratoryError(
            f"{known.name} is a detector, and a laboratory of the name {name} would be taken for "
            "it: choose another --laboratory"
        )
    return known


def load_laboratory(store: Store, name: str) -> detectors.DetectorCard:
    """Load the card of a laboratory's newest detector; StoreError lists those that exist."""
    if known := find_laboratory(store, name):
        return known
    have = [detectors.name_of(card.name) for card in learned.newest_learned(store)]
    raise StoreError(
        f"no laboratory {name!r} in {store.url}; "
        + (which(name, have) if have else "make one with: slidewatch commission")
    )


def population(store: Store, detector: detectors.DetectorCard) -> OwnNormal:
    """Load the normal of fitted slides; LaboratoryError if the detector has none."""
    normals = load_detector(store, detector).own
    if normals is None:
        raise LaboratoryError(
            f"detector {detector.name} does not know how slides differ, so no laboratory can be "
            "learned with it: fit a batch that names at least 8 patients or slides"
        )
    return normals


def slides_in_parts(store: Store, batch: Batch) -> list[tuple[SlideRows, ...]]:
    """List the slides of a batch in parts, each the work of a job."""
    return [part.slides for part in plan_parts(store, batch, by_slide=True)]


def least_sharpness(lab: Laboratory, nights: Sequence[detectors.LearnedNight]) -> float | None:
    """Return the lowest mean sharpness of a negative slide; None without photographs of any."""
    known: list[float] = []
    for night in nights:
        cut = segmentations.segmentation_of(lab.store, lab.batch(night).images)
        if cut is None:
            continue
        fields = segmentations.read_fields(lab.store, cut)
        fields = fields.filter(pa.array(is_negative(fields, night.negative)))
        by_slide = fields.group_by("slide_id").aggregate([("sharpness", "mean")])
        known += [each for each in by_slide["sharpness_mean"].to_pylist() if each is not None]
    return min(known, default=None)


def other_cells(lab: Laboratory, nights: Sequence[detectors.LearnedNight]) -> learning.Planted:
    """Select some cells of the newest other batches that have features under the model."""
    store, known = lab.store, {night.manifest_digest for night in nights}
    taps = sorted(lab.own.priors)
    others: learning.Planted = {}
    for batch in reversed(list_batches(store, on_damage=warn)):
        if batch.manifest_digest in known or not batch.rows or len(others) == OTHERS:
            continue
        shard = batch.shard(len(list(batch.shards())) // 2)
        rows = np.arange(shard.start, shard.stop)
        rows = rows[:: max(1, len(rows) // OTHER_CELLS)][:OTHER_CELLS]
        try:
            cells = HeldFeatures(store, batch, lab.screened(batch).model).take(rows, taps)
        except StoreError:  # never extracted under this model, or removed since
            continue
        judged = bundles.take(cells, np.flatnonzero(cells.classes >= 0))
        others[f"cells of batch {batch.name}"] = judged.taps, judged.classes
    return others
