"""Describe a whole night, as reference for slides and patients with too few cells."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.jobs import verified
from flows.jobs.scoring.feature_rows import Features
from flows.jobs.scoring.screened import Screened
from storage.batches.manifests import Batch
from storage.models.laboratories import LaboratoryCard
from storage.store import Store
from tasks import bundles
from tasks.detector.detector import Detector
from tasks.detector.slides import cell_score, own_normal
from tasks.detector.slides.normal import Choices, reference_rows, slide_normal
from tasks.detector.slides.references import (
    NO_ROWS,
    NONE,
    Reference,
    References,
    alone,
    group_leans,
    references_of,
)
from tasks.detector.slides.smears import A_NIGHT
from tasks.detector.witnesses import Discriminant
from tasks.laboratories.learning import LEAST_CELLS
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

    Rows from start to stop in ``unnamed`` name neither slide nor patient; they are described as one
    group, as expected at the laboratory. A ``discriminant`` is that of the second witness,
    where it is not the detector's or the laboratory's.
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
    """The reference (``compared``) for slides and patients with too few cells.

    ``unnamed`` is the row of `SHIFTS` of the images that name neither; None if there are none.
    """

    compared: Compared
    unnamed: dict[str, Any] | None = None


def describe_night(job: NightJob) -> NightReference:
    """Find the smears of a whole night in some of its cells, and describe the unnamed images."""
    store, batch, laboratory = job.screened.store, job.screened.batch, job.screened.laboratory
    features = Features(store, batch, job.screened.model)
    detector = verified.load_detector_at(store, job.screened.detector, laboratory)
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
    if laboratory is not None:
        group = alone(laboratory_reference(store, laboratory))
    elif group is None or len(unnamed) < len(rows):
        group = references_of(normals, cells, "night", A_NIGHT, of_few=True)
    return NightReference(compared_with(detector, group, cells), row)


def compared_with(
    detector: Detector,
    references: References,
    cells: cell_score.CellFeatures,
    parent: float = 0.0,
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
    chosen = [shards[n * len(shards) // SHARDS_OF_A_NIGHT] for n in range(SHARDS_OF_A_NIGHT)]
    chosen = sorted(set(chosen), key=lambda shard: shard.number)
    total = sum(shard.stop - shard.start for shard in chosen)
    every = -(-total // len(reference_rows(total))) if total else 1
    return np.concatenate([np.arange(shard.start, shard.stop, every) for shard in chosen])


def learned_night(screened: Screened) -> Reference:
    """Make one normal, perhaps from few cells, of a night that a person vouches for."""
    detector = verified.load_fitted_detector(screened.store, screened.detector)
    assert detector.own is not None
    rows = night_rows(screened.batch)
    features = Features(screened.store, screened.batch, screened.model)
    cells = features.take(rows, detector.taps)
    choices = Choices(least=LEAST_CELLS)
    normal = slide_normal(detector.own.priors, cells.taps, cells.classes, choices)
    return Reference(normal, rows[normal.kept], "night")


def laboratory_reference(store: Store, laboratory: LaboratoryCard) -> Reference:
    """Read the reference of a laboratory, for slides and patients with too few cells."""
    return Reference(
        verified.load_laboratory_normal(store, laboratory).reference, NO_ROWS, "laboratory"
    )


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
