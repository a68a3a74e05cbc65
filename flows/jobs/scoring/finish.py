"""Finish scored parts of a batch: write their rows as a piece of its report, and group them.

A piece has whole slides and whole patients, so that its rows of the other reports are complete.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.screened import Screened
from storage.batches.ledger import piece_path, scores_path, shifts_path
from storage.parquet import iterate_groups, read_table
from storage.reports.grouping import grouping
from storage.reports.schemas.images import image_schema
from storage.reports.schemas.patients import patient_schema
from storage.reports.schemas.slides import slide_schema
from storage.reports.tables import FIELDS, PATIENTS, SLIDES, of_attempt, stage_report
from tasks.limits import FieldLimits
from tasks.reports import calls, image_columns, slide_reasons
from tasks.reports.field_limits import fields_judged
from tasks.reports.image_rows import QValues
from tasks.reports.night.counts import BINS, TAP_EDGES, NightCounts
from tasks.types import Mask


@dataclass(frozen=True)
class Rules:
    """The limits and rules by which all rows of a batch are grouped and judged."""

    limits: FieldLimits
    """Of a field's quality."""
    counting: calls.Counting
    """By which cells are counted and slides judged."""
    scales: Mapping[str, tuple[float, float]]
    """By tap, mean and deviation of the log distance over calibration images."""
    made_by: image_columns.Provenance
    """The values that all rows share."""


@dataclass(frozen=True)
class FinishJob:
    """Consecutive scored ``parts`` of a batch, by their rows, to be finished.

    ``repeated`` (n,) marks their copies of images; ``fields`` are those that their cells were cut
    out of, None if they were cut out elsewhere.
    """

    screened: Screened
    parts: tuple[range, ...]
    q_values: QValues
    repeated: Mask
    fields: pa.Table | None
    rules: Rules


class Grouped(NamedTuple):
    """The rows of the reports on fields, slides and patients, and the counts of the night."""

    tables: dict[str, pa.Table]
    night: NightCounts


class Piece(NamedTuple):
    """A written piece of the report on images: its path, its sha256, and its rows, grouped."""

    path: tuple[str, ...]
    digest: str
    grouped: Grouped


def finish_parts(job: FinishJob) -> Piece:
    """Write the rows of scored parts as a piece of the report on images, and group them."""
    screened, batch = job.screened, job.screened.batch
    schema = image_schema(screened.model.classes, list(screened.detector.taps))
    shifts = [
        read_table(screened.store, *shifts_path(batch, screened.key, part)) for part in job.parts
    ]
    rows = range(job.parts[0].start, job.parts[-1].stop) if job.parts else range(0)
    path = piece_path(batch, screened.key, rows)
    with screened.store.staged(*path) as stage:
        digest = stage_report(stage, of_attempt(schema, batch.attempt), _rows(job))
        joined = pa.concat_tables([slide_reasons.SHIFTS.empty_table(), *shifts])
        grouped = group_rows(stage, joined, job.fields, job.rules)
    return Piece(path, digest, grouped)


def _rows(job: FinishJob) -> Iterator[pa.Table]:
    """Yield the scored rows with their q-values; copies of images are marked."""
    screened, start = job.screened, 0
    paths = [scores_path(screened.batch, screened.key, part) for part in job.parts]
    for rows in (rows for path in paths for rows in iterate_groups(screened.store, *path)):
        stop = start + rows.num_rows
        q_values = job.q_values.of(image_columns.numbers_of(rows, "p_value"))
        rows = rows.append_column("q_value", pa.array(q_values, mask=np.isnan(q_values)))
        yield rows.append_column(image_columns.REPEATED, pa.array(job.repeated[start:stop]))
        start = stop


def group_rows(images: Path, shifts: pa.Table, fields: pa.Table | None, rules: Rules) -> Grouped:
    """Group rows of a report on images into those of the reports on fields, slides and patients.

    Args:
        images: the report, a local file.
        shifts: rows of `SHIFTS`.
        fields: the fields that cells were cut out of, if any.
        rules: how rows are judged.

    Raises:
        ValueError: a cell is in no field of its source.
    """
    stated, counting, tables = rules.made_by.to_row(), rules.counting, dict[str, pa.Table]()
    strangest, counts_abnormal = image_columns.STRANGEST, counting.commissioned
    with grouping(images, strangest, counts_abnormal=counts_abnormal) as groups:
        # Fields contribute to their slide, and slides to their patients and their night.
        if fields is not None:
            counts = groups.fields(fields)
            tables[FIELDS] = fields_judged(fields, counts, rules.limits, stated)
        counts = groups.slides(tables.get(FIELDS), shifts, **counting.named_thresholds)
        slides = tables[SLIDES] = calls.slides_called(counts, counting, stated, slide_schema())
        counts = groups.patients(calls.judged_slides(slides, counting), **counting.named_thresholds)
        tables[PATIENTS] = calls.patients_called(counts, counting, stated, patient_schema())
        night = NightCounts(
            groups.batch(counting.alpha, *counting.scale_and_bias),
            groups.p_values(BINS),
            {tap: groups.tap_scores(tap, *s, TAP_EDGES) for tap, s in rules.scales.items()},
        )
    return Grouped(tables, night)
