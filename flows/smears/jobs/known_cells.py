"""Read cells of a known kind in a batch: errors of their diagnoses, and what diagnoses them.

On a slide known to be negative, all cells count that a night at the laboratory would count: whole
red cells, each once, abnormal ones too. So a night's counts do not depend on other nights of its
laboratory: they are added and removed with the night, exactly. If labelled cells give the
laboratory its own discriminant, it decides the counts, and all nights of the laboratory are counted
again. On other slides, labelled parasites count towards the sensitivity. Other labelled cells do
not count: a person chose them, so they represent no slide.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
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
from tasks.reports.image_columns import (
    PARASITIZED,
    flags,
    heads_of,
    may_count,
    numbers_of,
    repeated,
)
from tasks.smears.laboratories.adaptation import Labelled
from tasks.types import Float, Index, Mask, Single

COLUMNS = ("image_id", "slide_id", "patient_id", "label", "width", "height")


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


def known_errors(job: KnownJob) -> ErrorCounts:
    """Count the errors on the cells of a part whose kind is known."""
    kept = []
    for rows in scores.scored_rows(job.scored):
        slides = pa.table({name: rows[name] for name in COLUMNS})
        slides = slides.append_column("log_odds", pa.array(numbers_of(rows, "log_odds")))
        kept.append(slides.append_column("countable", pa.array(may_count(rows))))
    table = pa.concat_tables(kept)
    once = ~repeated([heads_of(table["image_id"].combine_chunks())])
    negative, parasite = is_negative(table, job.negative), is_parasite(table)
    chosen = table["countable"].to_numpy() & once & (negative | parasite)
    names = zip(table["patient_id"].to_pylist(), table["slide_id"].to_pylist(), strict=True)
    keys = [key_of(patient, slide, job.scored.screened.batch.key) for patient, slide in names]
    return count_errors(
        table["log_odds"].to_numpy()[chosen],
        (parasite & ~negative)[chosen],
        [keys[place] for place in np.flatnonzero(chosen).tolist()],
        np.maximum(numbers_of(table, "width"), numbers_of(table, "height"))[chosen].astype(
            np.int64
        ),
    )


class LabelledPart(NamedTuple):
    """The labelled cells of a part, and the digests of their images."""

    labelled: Labelled
    image_ids: list[str]


def labelled_cells(job: scores.ScoreJob) -> LabelledPart:
    """Read what diagnoses the labelled cells of a part that can be judged."""
    total, ids, places = Labelled.none(), list[str](), list[int]()
    start = job.part.rows.start
    for rows in scores.scored_rows(job):
        label = rows["label"].to_pylist()
        scored, _ = flags(rows)
        known = np.asarray([each in job.screened.model.classes for each in label], bool)
        chosen = np.flatnonzero(known & scored & ~image_rows.is_cut(rows)).tolist()
        patients, slides = rows["patient_id"].to_pylist(), rows["slide_id"].to_pylist()
        total += Labelled(
            numbers_of(rows, "log_odds")[chosen],
            np.asarray([label[row] == PARASITIZED for row in chosen], bool),
            tuple(key_of(patients[row], slides[row], job.screened.batch.key) for row in chosen),
        )
        ids += rows["image_id"].take(pa.array(chosen, pa.int64())).to_pylist()
        places += [start + row for row in chosen]
        start += rows.num_rows
    network, features = seen_by_witnesses(job, np.asarray(places, np.intp))
    return LabelledPart(replace(total, network=network, features=features), ids)


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
    features = feature_rows.Features(job.screened.store, job.screened.batch, job.screened.model)

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
    """Compute the class means that a detector's discriminant was made of, once a process."""
    slides = fitted_rows.slides_of_version(store, detector.model, detector.statistics_version)
    return Classes.of(slides, positive)
