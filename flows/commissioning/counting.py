"""Check the statements about a laboratory's slides, and read its labelled cells."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from distributed import Client

from flows.cluster.executor import run_jobs
from flows.commissioning.errors import is_negative, is_parasite, known_jobs
from flows.commissioning.versions import LaboratoryError
from flows.jobs.fitting.unseen import key_of
from flows.jobs.laboratory_slides import seen_by_witnesses
from flows.jobs.scoring.scores import ScoreJob, scored_rows
from flows.jobs.scoring.screened import Screened
from flows.stages.counting.chosen_thresholds import load_error_rates
from storage.batches.manifests import Batch, read_manifest
from storage.models.detectors import DetectorCard
from storage.models.laboratories import ALL, NONE
from storage.store import Store
from tasks.counting.error_rates import THRESHOLDS, ErrorCounts
from tasks.counting.interpretation import chance_of_blank
from tasks.laboratories.adaptation import Labelled
from tasks.reports.image_columns import PARASITIZED, flags, numbers_of
from tasks.reports.image_rows import is_cut

NAMED = 5  # slides that an error message names
LEAST_CHANCE = 0.001  # of as many called cells on some healthy slide of a night


def negative_of(store: Store, batch: Batch, given: Sequence[str]) -> tuple[str, ...]:
    """Check the slides and patients of a batch that are declared negative.

    Raises:
        LaboratoryError: the batch has no such slide or patient, or labels parasites on one.
    """
    if NONE in given:
        return ()
    table = read_manifest(store, batch, columns=["slide_id", "patient_id", "label"])
    there = {*table["slide_id"].to_pylist(), *table["patient_id"].to_pylist(), ALL} - {None}
    unknown = [name for name in given if name not in there]
    if unknown:
        have = sorted(there - {ALL})
        listed = ", ".join([*have[:NAMED], *(["..."] if len(have) > NAMED else [])])
        raise LaboratoryError(
            f"batch {batch.name} has no slide or patient {unknown[0]}, which is said to be "
            f"negative; there are: {listed or 'none with a name'}, or {ALL} of them"
        )
    negative = tuple(sorted(set(given)))
    parasites = is_negative(table, negative) & is_parasite(table)
    if parasites.any():
        slides = table.filter(pa.array(parasites))
        name = next(slides[c][0] for c in ("slide_id", "patient_id") if slides[c][0].is_valid)
        raise LaboratoryError(
            f"{parasites.sum():,} cells of batch {batch.name} are labelled {PARASITIZED} on slides "
            f"said to be negative, the first of {name}: leave such slides out of --negative"
        )
    return negative


def refuse_positive(
    store: Store, batch: Batch, detector: DetectorCard, errors: ErrorCounts, given: Sequence[str]
) -> None:
    """Raise LaboratoryError if ``all`` slides are declared negative and some look positive.

    Slides ``given`` one by one are accepted: a laboratory's healthy cells may be counted more often
    than those of fitted ones; then there is a warning.
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
        raise LaboratoryError(
            f"all slides of batch {batch.name} are said to be negative, but {len(strange):,} of "
            f"{slides:,} patients or slides have more cells that count as parasites than healthy "
            f"slides have: {json.loads(name)[-1]} {share:.1%}, where {usual} is usual. Look "
            "at them, and name those that are negative: --negative NAME"
        )


def labelled_of_night(client: Client, screened: Screened) -> Labelled:
    """Read what diagnoses a batch's labelled cells, each image once; none of other classes."""
    total, seen = Labelled.none(), set[str]()
    if len(screened.model.classes) != 2 or PARASITIZED not in screened.model.classes:
        return total
    labels = read_manifest(screened.store, screened.batch, columns=["label"])["label"]
    jobs = known_jobs(client, screened, labels.is_valid().to_numpy())
    for part in run_jobs(client, labelled_cells, jobs, title=f"labels of {screened.batch.name}"):
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
    """Read what diagnoses the labelled cells of a part that can be judged."""
    total, ids, places = Labelled.none(), list[str](), list[int]()
    start = job.spans[0].start
    for rows in scored_rows(job):
        label = rows["label"].to_pylist()
        scored, _, _ = flags(rows)
        known = np.asarray([each in job.screened.model.classes for each in label], bool)
        chosen = np.flatnonzero(known & scored & ~is_cut(rows)).tolist()
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
