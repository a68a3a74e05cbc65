"""Group rows of the report on images into those of the reports on fields, slides and patients."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from storage.batches.manifests import Batch
from storage.parquet import stage_rows
from storage.reports.tables import FIELDS, PATIENTS, SLIDES, report_path
from storage.smears.grouping import grouping
from storage.smears.schemas.patients import PATIENT_SCHEMA
from storage.smears.schemas.slides import SLIDE_SCHEMA
from storage.store import Store
from tasks.limits import FieldLimits
from tasks.reports import image_columns
from tasks.smears.reports import calls
from tasks.smears.reports.night.counts import BINS, TAP_EDGES, NightCounts
from tasks.smears.reports.slide_reasons import fields_judged


@dataclass(frozen=True)
class Rules:
    """The limits and rules by which all rows of a batch are grouped and judged."""

    limits: FieldLimits  # of a field's quality
    counting: calls.Counting  # by which cells are counted and slides judged
    # By tap, mean and deviation of the log distance over calibration images.
    scales: Mapping[str, tuple[float, float]]
    made_by: image_columns.Provenance  # the values that all rows share


@dataclass(frozen=True)
class GroupingJob:
    """Consecutive ``rows`` of a batch's report on images, of whole slides and patients.

    ``shifts`` are rows of `SHIFTS` of these slides; ``fields`` are those that their cells were cut
    out of, None if they were cut out elsewhere.
    """

    store: Store
    batch: Batch
    rows: range
    shifts: pa.Table
    fields: pa.Table | None
    rules: Rules


class Grouped(NamedTuple):
    """The rows of the reports on fields, slides and patients, and the counts of the night."""

    tables: dict[str, pa.Table]
    night: NightCounts


def group_piece(job: GroupingJob) -> Grouped:
    """Group the rows of a job."""
    path = report_path(job.batch.name, job.batch.batch_date)
    with job.store.stage() as stage:
        stage_rows(job.store, stage, job.rows, *path)
        return group_rows(stage, job.shifts, job.fields, job.rules)


def group_rows(images: Path, shifts: pa.Table, fields: pa.Table | None, rules: Rules) -> Grouped:
    """Group rows of a report on ``images``, a local file, into those of the other reports.

    ``shifts`` are rows of `SHIFTS`, ``fields`` those that cells were cut out of, if any. ValueError
    if a cell is in no field of its source.
    """
    stated, counting, tables = rules.made_by.to_row(), rules.counting, dict[str, pa.Table]()
    with grouping(images, image_columns.STRANGEST) as groups:
        # Fields contribute to their slide, and slides to their patients and their night.
        if fields is not None:
            counts = groups.fields(fields)
            tables[FIELDS] = fields_judged(fields, counts, rules.limits, stated)
        counts = groups.slides(tables.get(FIELDS), shifts, **counting.named_thresholds)
        slides = tables[SLIDES] = calls.slides_called(counts, counting, stated, SLIDE_SCHEMA)
        counts = groups.patients(calls.judged_slides(slides, counting), **counting.named_thresholds)
        tables[PATIENTS] = calls.patients_called(counts, counting, stated, PATIENT_SCHEMA)
        night = NightCounts(
            groups.batch(counting.alpha),
            groups.p_values(BINS),
            {tap: groups.tap_scores(tap, *s, TAP_EDGES) for tap, s in rules.scales.items()},
        )
    return Grouped(tables, night)
