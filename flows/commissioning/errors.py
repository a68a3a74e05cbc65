"""Count the errors of a laboratory's diagnoses: on slides known to be negative, and labelled
parasites.

On a slide known to be negative, all cells count that a screened night would count: red cells that
are whole and not abnormal, each once. Cells are judged abnormal as in a night without a laboratory,
by the slide and the population, so a night's counts do not depend on other nights of its
laboratory: they are added and removed with the night, exactly. If labelled cells give the
laboratory its own discriminant, it decides the counts, and all nights of the laboratory are counted
again. On other slides, labelled parasites count towards the sensitivity. Other labelled cells do
not count: a person chose them, so they represent no slide.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from distributed import Client
from numpy.typing import NDArray

from flows.cluster.executor import run_jobs
from flows.jobs.fitting.unseen import key_of
from flows.jobs.scoring.plan import parts_of
from flows.jobs.scoring.scores import ScoreJob, scored_rows
from flows.jobs.scoring.screened import Screened
from flows.stages.scoring import plan_jobs
from storage.batches.manifests import read_manifest
from storage.models.laboratories import ALL
from storage.records import now
from tasks.counting.error_rates import ErrorCounts, count_errors, merge_errors
from tasks.detector.witnesses import Discriminant
from tasks.reports.image_columns import PARASITIZED, is_read, numbers_of, repeats

COLUMNS = ("image_id", "slide_id", "patient_id", "label")


@dataclass(frozen=True)
class KnownJob:
    """A part of a batch, and the slides and patients of it that are known to be negative."""

    scored: ScoreJob
    negative: tuple[str, ...]


def errors_of_night(
    client: Client,
    screened: Screened,
    negative: tuple[str, ...],
    discriminant: Discriminant | None = None,
) -> ErrorCounts:
    """Count the errors on the cells of a batch whose kind is known, by patient or slide.

    They are those of the detector or, where a ``discriminant`` is given, of it as second witness.
    """
    total = ErrorCounts.empty()
    if PARASITIZED not in screened.model.classes:
        return total
    table = read_manifest(
        screened.store, screened.batch, columns=["slide_id", "patient_id", "label"]
    )
    jobs = known_jobs(
        client, screened, is_negative(table, negative) | is_parasite(table), discriminant
    )
    counting = [KnownJob(job, negative) for job in jobs]
    for part in run_jobs(client, known_errors, counting, title=f"errors of {screened.batch.name}"):
        total = merge_errors(total, part)
    return total


def known_jobs(
    client: Client,
    screened: Screened,
    known: NDArray[np.bool_],
    discriminant: Discriminant | None = None,
) -> list[ScoreJob]:
    """Make the jobs of the parts of a batch that have some of its marked rows (n,)."""
    parts = parts_of(screened)
    wanted = [
        number
        for number, part in enumerate(parts)
        if known[part.spans[0].start : part.spans[-1].stop].any()
    ]
    return plan_jobs(client, screened, parts, wanted, now(), discriminant)


def is_negative(rows: pa.Table, negative: Collection[str]) -> NDArray[np.bool_]:
    """Mark the rows (n,) of slides or patients that are known to be negative."""
    if ALL in negative:
        return np.ones(rows.num_rows, bool)
    pairs = zip(rows["slide_id"].to_pylist(), rows["patient_id"].to_pylist(), strict=True)
    return np.asarray([slide in negative or patient in negative for slide, patient in pairs], bool)


def known_errors(job: KnownJob) -> ErrorCounts:
    """Count the errors on the cells of a part whose kind is known."""
    kept = []
    for rows in scored_rows(job.scored):
        slides = pa.table({name: rows[name] for name in COLUMNS})
        slides = slides.append_column("log_odds", pa.array(numbers_of(rows, "log_odds")))
        kept.append(slides.append_column("read", pa.array(is_read(rows))))
    table = pa.concat_tables(kept)
    once = ~repeats([table["image_id"].combine_chunks()])
    negative, parasite = is_negative(table, job.negative), is_parasite(table)
    chosen = table["read"].to_numpy() & once & (negative | parasite)
    names = zip(table["patient_id"].to_pylist(), table["slide_id"].to_pylist(), strict=True)
    keys = [key_of(patient, slide, job.scored.screened.batch.key) for patient, slide in names]
    return count_errors(
        table["log_odds"].to_numpy()[chosen],
        (parasite & ~negative)[chosen],
        [keys[place] for place in np.flatnonzero(chosen).tolist()],
    )


def is_parasite(rows: pa.Table) -> NDArray[np.bool_]:
    """Mark the rows (n,) that are labelled as parasites."""
    return np.asarray([label == PARASITIZED for label in rows["label"].to_pylist()], bool)
