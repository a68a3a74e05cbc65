"""Finish scored parts of a batch: write their rows as a piece of its report, and count them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.screened import Screened
from storage.batches.ledger import piece_path, scores_path, shifts_path
from storage.parquet import iterate_groups, read_table
from storage.reports.schemas.images import image_schema
from storage.reports.tables import of_attempt, stage_report
from tasks.reports import image_columns
from tasks.reports.image_rows import QValues
from tasks.types import Mask


@dataclass(frozen=True)
class FinishJob:
    """Consecutive scored ``parts`` of a batch to be finished; ``repeated`` (n,) marks copies."""

    screened: Screened
    parts: tuple[range, ...]
    q_values: QValues
    repeated: Mask


class Piece(NamedTuple):
    """A written piece of the report on images: its path, its sha256, and its counts."""

    path: tuple[str, ...]
    digest: str
    counts: image_columns.ImageCounts


def finish_parts(job: FinishJob) -> Piece:
    """Write the rows of scored parts as a piece of the report on images, and count them."""
    screened, batch, counts = job.screened, job.screened.batch, image_columns.ImageCounts()
    schema = image_schema(screened.model.classes, list(screened.detector.taps))
    rows = range(job.parts[0].start, job.parts[-1].stop) if job.parts else range(0)
    path = piece_path(batch, screened.key, rows)
    with screened.store.staged(*path) as stage:
        digest = stage_report(stage, of_attempt(schema, batch.attempt), _rows(job, counts))
    return Piece(path, digest, counts)


def _rows(job: FinishJob, counts: image_columns.ImageCounts) -> Iterator[pa.Table]:
    """Yield and count the scored rows with their q-values; copies of images are marked."""
    screened, start = job.screened, 0
    for rows in (rows for part in job.parts for rows in _of_slides(screened, part)):
        stop = start + rows.num_rows
        q_values = job.q_values.of(image_columns.numbers_of(rows, "p_value"))
        rows = rows.append_column("q_value", pa.array(q_values, mask=np.isnan(q_values)))
        counts.count(rows)
        yield rows.append_column(image_columns.REPEATED, pa.array(job.repeated[start:stop]))
        start = stop


def _of_slides(screened: Screened, part: range) -> Iterator[pa.Table]:
    """Yield the rows of a part; all of a slide that is no smear are for review."""
    store, named = screened.store, (screened.batch, screened.key, part)
    shifts = read_table(store, *shifts_path(*named))
    steady = read_table(store, *scores_path(*named), columns=["slide_id", "steady"])
    slides = image_columns.no_smears(shifts, steady)
    for rows in iterate_groups(store, *scores_path(*named)):
        yield image_columns.of_no_smears(rows, slides) if slides else rows
