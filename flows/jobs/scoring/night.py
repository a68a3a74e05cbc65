"""Describe a whole night, as reference for slides and patients with too few cells."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.jobs import verified
from flows.jobs.scoring.feature_rows import HeldFeatures
from flows.jobs.scoring.screened import Screened
from storage.batches.manifests import Batch
from tasks import bundles
from tasks.detector.detector import Detector
from tasks.detector.slides import cell_score, own_normal
from tasks.detector.slides.groups import reference_rows
from tasks.detector.slides.night_smears import A_NIGHT
from tasks.detector.slides.references import (
    NO_ROWS,
    NONE,
    Reference,
    References,
    alone,
    group_leans,
    references_of,
)
from tasks.detector.witnesses import Discriminant
from tasks.types import Index, Mask

SHARDS_OF_A_NIGHT = 40  # that say what a night is like


@dataclass(frozen=True)
class SlideRows:
    """Rows ``start`` to ``stop`` of a batch, of one patient and one slide, if named."""

    slide: str | None
    patient: str | None
    start: int
    stop: int


@dataclass(frozen=True)
class NightJob:
    """A batch whose own normals are wanted, for slides and patients with too few cells.

    Rows from start to stop in ``unnamed`` name neither; they are described as one group. A
    ``discriminant`` is the second witness's, where it is not the detector's.
    """

    screened: Screened
    unnamed: tuple[tuple[int, int], ...] = ()
    discriminant: Discriminant | None = None


@dataclass(frozen=True)
class Compared:
    """The references of a group of cells, and the lean of each of its parts."""

    references: References
    leans: tuple[float, ...] = NONE

    @property
    def known(self) -> list[tuple[Reference, float]]:
        """List the existing references with their leans."""
        pairs = zip(self.references.own, self.leans, strict=False)  # a lean needs no reference
        return [(reference, lean) for reference, lean in pairs if reference is not None]


@dataclass(frozen=True)
class NightReference:
    """The reference of slides with too few cells, and the row of `SHIFTS` of unnamed images."""

    compared: Compared
    unnamed: dict[str, Any] | None = None


def describe_night(job: NightJob) -> NightReference:
    """Find the smears of a whole night in some of its cells, and describe the unnamed images."""
    store, batch = job.screened.store, job.screened.batch
    features = HeldFeatures(store, batch, job.screened.model)
    detector = verified.load_detector(store, job.screened.detector)
    detector = verified.with_discriminant(detector, job.discriminant)
    normals, rows = detector.own, night_rows(batch)
    assert normals is not None
    cells = features.take(rows, taps_of(detector))
    ranges = [(rows >= start) & (rows < stop) for start, stop in job.unnamed]
    unnamed = np.flatnonzero(np.any(ranges, axis=0)) if ranges else NO_ROWS
    row = group = None
    if len(unnamed):  # a group of their own
        some = bundles.take(cells, unnamed)
        group = references_of(normals, some, "night", A_NIGHT)
        row = shift_row(normals, SlideRows(None, None, 0, 0), some, None, group)
    if detector.reference is not None:
        group = alone(detector.fallback)
    elif group is None or len(unnamed) < len(rows):
        group = references_of(normals, cells, "night", A_NIGHT, of_few=True)
    return NightReference(compared_with(detector, group, cells), row)


def compared_with(
    detector: Detector, references: References, cells: cell_score.CellFeatures, parent: float = 0.0
) -> Compared:
    """Find the leans of the parts of a group of cells; see `group_leans`."""
    if detector.witnesses is None or detector.own is None:
        return Compared(references, NONE * max(1, len(references.own)))
    leans = group_leans(detector.witnesses, detector.own, references, cells, parent)
    return Compared(references, leans)


def taps_of(detector: Detector) -> list[str]:
    """List the taps needed for a detector's distances and discriminant."""
    known = detector.witnesses
    return sorted({*detector.taps, *(known.discriminant.weights if known else ())})


def night_rows(batch: Batch) -> Index:
    """Choose the rows that describe a night, spread evenly over its shards."""
    shards = list(batch.shards())
    chosen = [shards[number] for number in reference_rows(len(shards), SHARDS_OF_A_NIGHT)]
    total = sum(shard.stop - shard.start for shard in chosen)
    every = -(-total // len(reference_rows(total))) if total else 1
    return np.concatenate([np.arange(shard.start, shard.stop, every) for shard in chosen])


def shift_row(
    normals: own_normal.OwnNormal,
    slide: SlideRows,
    cells: cell_score.CellFeatures,
    kept: Mask | None,
    group: References,
) -> dict[str, Any]:
    """Make the row of `SHIFTS` of a slide from some of its cells."""
    smears = group.smears
    return {
        "slide_id": slide.slide,
        "patient_id": slide.patient,
        **vars(own_normal.slide_shift(normals, cells.taps, cells.classes, kept)),
        "smear_shift": _known(smears.whole.shift),
        "smear_spread": _known(smears.whole.spread),
        "implausible": None if normals.floor is None else smears.implausible,
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
