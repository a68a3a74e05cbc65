"""Read cells of a known kind in a batch: errors of their diagnoses, and what diagnoses them.

On a slide known to be negative, all cells count that a night at the laboratory would count: whole
red cells, each once, abnormal ones too. So a night's counts do not depend on other nights of its
laboratory: they are added and removed with the night, exactly. If labelled cells give the
laboratory its own discriminant, it decides the counts, and all nights of the laboratory are counted
again. On other slides labelled parasites count, towards the sensitivity, and nothing else does.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from flows.jobs.fitting import fitted_rows
from flows.jobs.fitting.unseen import key_of
from flows.jobs.scoring import feature_rows, scores
from flows.jobs.verified import load_detector
from storage.models import detectors
from storage.smears import learned
from storage.store import Store
from tasks.detector import probabilities
from tasks.detector.error_counts import ErrorCounts, count_errors
from tasks.detector.slides.groups import reference_rows
from tasks.detector.witnesses import Classes, shifts
from tasks.reports import image_rows
from tasks.reports.image_columns import PARASITIZED, flags, heads_of, is_read, numbers_of, repeated
from tasks.smears.laboratories.adaptation import NO_LABELS, Labelled
from tasks.types import Float, Index, Mask, Single, below

CLASSES = "classes"  # arrays of a detector without statistics
COLUMNS = ("image_id", "slide_id", "patient_id", "label")


def is_negative(rows: pa.Table, negative: Collection[str]) -> Mask:
    """Mark the rows (n,) of slides or patients that are known to be negative."""
    if learned.ALL in negative:
        return np.ones(rows.num_rows, bool)
    pairs = zip(rows["slide_id"].to_pylist(), rows["patient_id"].to_pylist(), strict=True)
    return np.asarray([slide in negative or patient in negative for slide, patient in pairs], bool)


def is_parasite(rows: pa.Table) -> Mask:
    """Mark the rows (n,) that are labelled as parasites."""
    return np.asarray([label == PARASITIZED for label in rows["label"].to_pylist()], bool)


@dataclass(frozen=True)
class KnownJob:
    """A part of a batch, and the slides and patients of it that are known to be negative."""

    scored: scores.ScoreJob
    negative: tuple[str, ...]


class Known(NamedTuple):
    """The errors on a part's cells of a known kind, and its labelled cells with their digests."""

    errors: ErrorCounts
    labelled: Labelled = NO_LABELS
    image_ids: tuple[str, ...] = ()


def known_cells(job: KnownJob) -> Known:
    """Count the errors on a part's cells of a known kind, and read what diagnoses labelled ones.

    Labels only matter with two classes, and not where errors are counted by another discriminant.
    """
    screened = job.scored.screened
    table = pa.concat_tables([_columns(rows) for rows in scores.scored_rows(job.scored)])
    names = zip(table["patient_id"].to_pylist(), table["slide_id"].to_pylist(), strict=True)
    keys = [key_of(patient, slide, screened.batch.key) for patient, slide in names]
    log_odds, size = numbers_of(table, "log_odds"), numbers_of(table, "size")
    negative, parasite = is_negative(table, job.negative), is_parasite(table)
    once = ~repeated([heads_of(table["image_id"].combine_chunks())])
    countable = table["countable"].to_numpy() & once & (negative | parasite)
    of_cells = [keys[place] for place in np.flatnonzero(countable).tolist()]
    is_found = (parasite & ~negative)[countable]
    sizes = size[countable].astype(np.int64)
    errors = count_errors(log_odds[countable], is_found, of_cells, sizes)
    if len(screened.model.classes) != 2 or job.scored.discriminant is not None:
        return Known(errors)
    known = [label in screened.model.classes for label in table["label"].to_pylist()]
    chosen = np.flatnonzero(table["judged"].to_numpy() & np.asarray(known, bool))
    network, features = seen_by_witnesses(job.scored, job.scored.part.rows.start + chosen)
    labelled = Labelled(
        log_odds[chosen],
        parasite[chosen],
        tuple(keys[row] for row in chosen.tolist()),
        network if features else log_odds[chosen],
        features,
    )
    return Known(errors, labelled, tuple(table["image_id"].take(pa.array(chosen)).to_pylist()))


def _columns(rows: pa.Table) -> pa.Table:
    scored, _ = flags(rows)
    size = np.maximum(numbers_of(rows, "width"), numbers_of(rows, "height"))
    return pa.table(
        {name: rows[name] for name in COLUMNS}
        | {
            "size": pa.array(size),
            "log_odds": pa.array(numbers_of(rows, "log_odds")),
            "countable": pa.array(is_read(rows)),
            "judged": pa.array(scored & ~image_rows.is_cut(rows)),
        }
    )


def seen_by_witnesses(job: scores.ScoreJob, rows: Index) -> tuple[Float, dict[str, Single]]:
    """Read what both witnesses see of some rows (n,) of a part, in ascending order.

    A slide of few cells is expected to be shifted as its part is.

    Returns:
        The network's log-odds (n,), and by tap features (n, d) less their slide's shift; nothing
        where the network alone diagnoses.
    """
    known = load_detector(job.screened.store, job.screened.detector).witnesses
    if known is None or not len(rows):
        return np.empty(0), {}
    normal = fitted_classes(job.screened.store, job.screened.detector, known.positive).healthy
    features = feature_rows.HeldFeatures(job.screened.store, job.screened.batch, job.screened.model)

    def shifted(start: int, stop: int, parent: dict[str, Float] | None = None) -> dict[str, Float]:
        cells = features.take(start + reference_rows(stop - start), sorted(normal))
        return shifts(cells.taps, cells.classes == 1 - known.positive, normal, parent)

    parent = shifted(job.part.rows.start, job.part.rows.stop)
    parts: list[dict[str, Single]] = []
    for slide in job.part.slides:
        slide_rows = rows[(rows >= slide.start) & (rows < slide.stop)]
        if len(slide_rows):
            off = shifted(slide.start, slide.stop, parent)
            taps = features.take(slide_rows, sorted(normal)).taps
            parts.append(
                {tap: values - off[tap].astype(np.float32) for tap, values in taps.items()}
            )
    logits = np.concatenate([held.block.logits[places] for held, places in features.holding(rows)])
    return (
        probabilities.log_odds(logits, job.screened.model.temperature, known.positive),
        {tap: np.concatenate([part[tap] for part in parts]) for tap in normal},
    )


@lru_cache(maxsize=2)
def fitted_classes(store: Store, detector: detectors.DetectorCard, positive: int) -> Classes:
    """Compute the class means that a detector's discriminant was made of, once a process.

    The detector that comes along has them with it, without its statistics.
    """
    if known := below(CLASSES, detectors.load_detector(store, detector)):
        return Classes.from_arrays(known)
    slides = fitted_rows.slides_of_version(store, detector.model, detector.statistics_version)
    return Classes.of(slides, positive)
