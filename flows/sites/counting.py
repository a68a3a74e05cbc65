"""Count the errors of a site's diagnoses: on slides known to be negative, and labelled parasites.

On a slide known to be negative all cells count that a screened night would count: red cells that
are whole and not abnormal, each once. Abnormal cells are found as in a night without a site, by the
slide and the population, so a night's counts do not depend on other nights of its site, and are
added and removed with it exactly. On other slides only labelled parasites count, for the
sensitivity. Other labelled cells do not: a person has chosen them, so they represent no slide.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from distributed import Client
from numpy.typing import NDArray

from flows.jobs.fitting.unseen import key_of
from flows.jobs.scoring.cells import ScoreJob, scored_rows
from flows.jobs.scoring.plan import Part, plan_parts
from flows.sites.versions import SiteError
from flows.stages.counting.threshold import load_error_rates
from flows.stages.running import run_jobs
from flows.stages.scoring import plan_jobs
from storage.batches.manifests import Batch, read_manifest
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.models.sites import ALL, NONE
from storage.records import now
from storage.store import Store
from tasks.counting.error_rates import THRESHOLDS, ErrorCounts, count_errors, merge_errors
from tasks.counting.limits import chance_of_blank
from tasks.reports.columns import PARASITIZED, flags, repeats
from tasks.reports.counts import is_read, log_odds_of
from tasks.reports.images import is_cut
from tasks.sites.adaptation import Labelled

NAMED = 5  # slides named in an error message
LEAST_CHANCE = 0.001  # of this many called cells on any healthy slide of a night
COLUMNS = ("image_id", "slide_id", "patient_id", "label")


@dataclass(frozen=True)
class KnownJob:
    """A part of a batch, and its slides and patients that are known to be negative."""

    scored: ScoreJob
    negative: tuple[str, ...]


def negative_of(store: Store, batch: Batch, given: Sequence[str]) -> tuple[str, ...]:
    """Check the slides and patients of a batch that are declared negative.

    Raises:
        SiteError: the batch has no such slide or patient, or labels parasites on one.
    """
    if NONE in given:
        return ()
    table = read_manifest(store, batch, columns=["slide_id", "patient_id", "label"])
    there = {*table["slide_id"].to_pylist(), *table["patient_id"].to_pylist(), ALL} - {None}
    unknown = [name for name in given if name not in there]
    if unknown:
        have = ", ".join(sorted(there - {ALL})[:NAMED])
        raise SiteError(
            f"batch {batch.name} has no slide or patient {unknown[0]}, which is said to be "
            f"negative; there are: {have}, ..., or {ALL} of them"
        )
    negative = tuple(sorted(set(given)))
    parasites = is_negative(table, negative) & _is_parasite(table)
    if parasites.any():
        slides = table.filter(pa.array(parasites))
        name = next(slides[c][0] for c in ("slide_id", "patient_id") if slides[c][0].is_valid)
        raise SiteError(
            f"{parasites.sum():,} cells of batch {batch.name} are labelled {PARASITIZED} on slides "
            f"said to be negative, the first of {name}: leave such slides out of --negative"
        )
    return negative


def is_negative(rows: pa.Table, negative: Collection[str]) -> NDArray[np.bool_]:
    """Mark the rows (n,) of slides or patients that are known to be negative."""
    if ALL in negative:
        return np.ones(rows.num_rows, bool)
    pairs = zip(rows["slide_id"].to_pylist(), rows["patient_id"].to_pylist(), strict=True)
    return np.asarray([slide in negative or patient in negative for slide, patient in pairs], bool)


def refuse_positive(
    store: Store, batch: Batch, detector: DetectorCard, errors: ErrorCounts, given: Sequence[str]
) -> None:
    """Raise SiteError if ``all`` slides are declared negative and some look positive.

    Slides named one by one are accepted: a laboratory's healthy cells may be counted more often
    than those of fitted ones; then there is a warning.

    Args:
        store: where the detector is.
        batch: of the slides.
        detector: of the site, with the usual rate of counted healthy cells.
        errors: of the batch.
        given: the slides and patients declared negative.
    """
    known = load_error_rates(store, detector)
    if ALL not in given or known is None:
        return
    place = int(np.argmin(np.abs(THRESHOLDS - known.counting.log_odds)))
    pairs = list(zip(errors.false[:, place].tolist(), errors.negatives.tolist(), strict=True))
    slides = sum(cells > 0 for _, cells in pairs)
    strange = [
        (called / cells, name)
        for name, (called, cells) in zip(errors.slides, pairs, strict=True)
        if cells and chance_of_blank(called, cells, known.counting) < LEAST_CHANCE / slides
    ]
    if strange:
        share, name = max(strange)
        usual = f"{known.counting.false.mean:.2%}"
        raise SiteError(
            f"all slides of batch {batch.name} are said to be negative, but {len(strange):,} of "
            f"{slides:,} patients or slides have more cells that count as parasites than healthy "
            f"slides have: {json.loads(name)[-1]} {share:.1%}, where {usual} is usual. Look "
            "at them, and name those that are negative: --negative NAME"
        )


def errors_of_night(
    client: Client,
    store: Store,
    batch: Batch,
    card: ModelCard,
    detector: DetectorCard,
    negative: tuple[str, ...],
) -> ErrorCounts:
    """Count the errors on the cells of known kind in a batch, by patient or slide."""
    total = ErrorCounts.empty()
    if PARASITIZED not in card.classes:
        return total
    parts = plan_parts(store, batch, by_slide=detector.slides is not None)
    table = read_manifest(store, batch, columns=["slide_id", "patient_id", "label"])
    known = is_negative(table, negative) | _is_parasite(table)
    wanted = [number for number, part in enumerate(parts) if _holds(part, known)]
    jobs = plan_jobs(client, store, batch, card, detector, parts, wanted, now())
    counting = [KnownJob(job, negative) for job in jobs]
    for part in run_jobs(client, known_errors, counting, title=f"errors of {batch.name}"):
        total = merge_errors(total, part)
    return total


def labelled_of_night(
    client: Client, store: Store, batch: Batch, card: ModelCard, detector: DetectorCard
) -> Labelled:
    """Compute the log-odds of a batch's labelled cells, each image once, of the two classes."""
    total, seen = Labelled.none(), set[str]()
    if len(card.classes) != 2 or PARASITIZED not in card.classes:
        return total
    parts = plan_parts(store, batch, by_slide=detector.slides is not None)
    known = read_manifest(store, batch, columns=["label"])["label"].is_valid().to_numpy()
    wanted = [number for number, part in enumerate(parts) if _holds(part, known)]
    jobs = plan_jobs(client, store, batch, card, detector, parts, wanted, now())
    for part in run_jobs(client, labelled_cells, jobs, title=f"labels of {batch.name}"):
        new = []
        for row, image_id in enumerate(part.image_ids):
            if image_id not in seen:
                seen.add(image_id)
                new.append(row)
        total += part.labelled.take(new)
    return total


class LabelledPart(NamedTuple):
    """The labelled cells of a part, and the digests of their images."""

    labelled: Labelled
    image_ids: list[str]


def labelled_cells(job: ScoreJob) -> LabelledPart:
    """Compute the log-odds of the labelled cells in a part that can be judged."""
    total, ids = Labelled.none(), []
    for rows in scored_rows(job):
        label = rows["label"].to_pylist()
        scored, _, _ = flags(rows)
        known = np.asarray([each in job.model.classes for each in label], bool)
        chosen = np.flatnonzero(known & scored & ~is_cut(rows)).tolist()
        patients, slides = rows["patient_id"].to_pylist(), rows["slide_id"].to_pylist()
        total += Labelled(
            log_odds_of(rows)[chosen],
            np.asarray([label[row] == PARASITIZED for row in chosen], bool),
            tuple(key_of(patients[row], slides[row], job.batch.key) for row in chosen),
        )
        ids += rows["image_id"].take(pa.array(chosen, pa.int64())).to_pylist()
    return LabelledPart(total, ids)


def known_errors(job: KnownJob) -> ErrorCounts:
    """Count the errors on the cells of known kind in a part."""
    kept = []
    for rows in scored_rows(job.scored):
        slides = pa.table({name: rows[name] for name in COLUMNS})
        slides = slides.append_column("log_odds", pa.array(log_odds_of(rows)))
        kept.append(slides.append_column("read", pa.array(is_read(rows))))
    table = pa.concat_tables(kept)
    once = ~repeats([table["image_id"].combine_chunks()])
    negative, parasite = is_negative(table, job.negative), _is_parasite(table)
    chosen = table["read"].to_numpy() & once & (negative | parasite)
    names = zip(table["patient_id"].to_pylist(), table["slide_id"].to_pylist(), strict=True)
    keys = [key_of(patient, slide, job.scored.batch.key) for patient, slide in names]
    return count_errors(
        table["log_odds"].to_numpy()[chosen],
        (parasite & ~negative)[chosen],
        [keys[place] for place in np.flatnonzero(chosen).tolist()],
    )


def _is_parasite(rows: pa.Table) -> NDArray[np.bool_]:
    return np.asarray([label == PARASITIZED for label in rows["label"].to_pylist()], bool)


def _holds(part: Part, known: NDArray[np.bool_]) -> bool:
    return bool(known[part.spans[0].start : part.spans[-1].stop].any())
