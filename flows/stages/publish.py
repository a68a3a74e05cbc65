"""Publish a batch: join the rows of its parts into reports, and seal them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path

import pyarrow as pa

from flows.jobs.scoring import report_rows, scores
from flows.jobs.scoring.screened import Screened
from flows.jobs.verified import adaptation_at, load_fitted_detector
from flows.monitoring import console, prefect_runs
from flows.settings import Settings
from flows.stages.counting.chosen_thresholds import (
    load_error_rates,
    load_laboratory_rates,
    rates_elsewhere,
    sure_rates,
)
from storage.batches import ledger, manifests, segmentations
from storage.parquet import read_table
from storage.reports.grouping import grouping
from storage.reports.publication import SCHEMAS, publication
from storage.reports.schemas.batches import batch_schema
from storage.reports.schemas.images import image_schema
from storage.reports.schemas.patients import patient_schema
from storage.reports.schemas.slides import slide_schema
from storage.reports.tables import (
    BATCHES,
    FIELDS,
    IMAGES,
    PATIENTS,
    SLIDES,
    read_batches_before,
    report_digest,
    report_path,
)
from storage.store import Store
from tasks.counting.call import Answers
from tasks.limits import FieldLimits
from tasks.reports import calls, slide_reasons
from tasks.reports.field_limits import fields_judged
from tasks.reports.image_columns import STRANGEST, Provenance
from tasks.reports.night.counts import BINS, TAP_EDGES, NightCounts, Row, batch_table, summaries
from tasks.reports.night.judged import batch_judged

NIGHTS_READ = 60  # earlier batches to read: twice the number compared with, as some are omitted


def valid_seal(store: Store, batch: manifests.Batch, key: str) -> ledger.Seal | None:
    """Read the seal of a screening's reports; None if any of the sealed reports is missing."""
    seal = ledger.read_seal(store, batch, key)
    if seal is None:
        return None
    sealed = {
        IMAGES: seal.report_digest,
        SLIDES: seal.slides_digest,
        PATIENTS: seal.patients_digest,
        BATCHES: seal.batch_digest,
    }
    if seal.fields_digest:
        sealed[FIELDS] = seal.fields_digest
    for kind, digest in sealed.items():
        if report_digest(store, report_path(batch.name, batch.batch_date, kind)) != digest:
            return None
    return seal


def batch_report(store: Store, batch: manifests.Batch) -> Row:
    """Read the row of a batch in the history of nights."""
    (row,) = summaries(read_table(store, *report_path(batch.name, batch.batch_date, BATCHES)))
    return row


def nights_before(store: Store, day: date, limit: int) -> Sequence[Row]:
    """Read the rows of the last batches before a day, oldest first."""
    return summaries(read_batches_before(store, day, limit, on_damage=console.warn))


@prefect_runs.task
def publish(screened: Screened, settings: Settings, parts: int) -> ledger.Seal:
    """Join the parts' rows into the report on images, group the others from it, and publish all.

    A resumed run writes the same bytes, because only earlier nights are compared with.
    """
    store, batch = screened.store, screened.batch
    begun = ledger.screening_start(store, batch, screened.key)
    made_by = replace(scores.provenance_of(screened, begun), arithmetic=screened.model.arithmetic)
    with publication(store, batch) as reports:
        schema = image_schema(screened.model.classes, list(screened.detector.taps))
        reports.add(IMAGES, schema, report_rows.finished_rows(screened, parts, console.warn))
        tables = _grouped(screened, settings, parts, made_by, reports.files[IMAGES])
        for kind, table in tables.items():
            reports.add(kind, SCHEMAS[kind](), [table])
        (row,) = summaries(tables[BATCHES])
        if row["images"] != batch.rows:
            raise RuntimeError(f"{row['images']} rows, but {batch.rows} images")
        reports.appear()
    seal = _seal(screened, made_by, row, reports.digests)
    ledger.write_seal(store, batch, seal)
    ledger.discard_scores(store, batch, screened.key)
    return seal


def _grouped(
    screened: Screened, settings: Settings, parts: int, made_by: Provenance, images: Path
) -> dict[str, pa.Table]:
    """Group the rows of a batch's report on images, a local file, into its other reports."""
    store, batch = screened.store, screened.batch
    segmentation = segmentations.segmentation_of(store, batch.images)
    shifts = [
        read_table(store, *ledger.shifts_path(batch, screened.key, part)) for part in range(parts)
    ]
    return grouped_reports(
        images,
        pa.concat_tables([slide_reasons.SHIFTS.empty_table(), *shifts]),
        segmentations.read_fields(store, segmentation) if segmentation else None,
        settings.field_limits,
        counting_at(screened, settings),
        load_fitted_detector(store, screened.detector).scales,
        nights_before(store, batch.batch_date, NIGHTS_READ),
        made_by,
    )


def grouped_reports(
    images: Path,
    shifts: pa.Table,
    fields: pa.Table | None,
    limits: FieldLimits,
    counting: calls.Counting,
    scales: Mapping[str, tuple[float, float]],
    earlier: Sequence[Row],
    made_by: Provenance,
) -> dict[str, pa.Table]:
    """Group the rows of a report on images into the other reports of its batch.

    Args:
        images: the report, a local file.
        shifts: rows of `SHIFTS`.
        fields: the fields that cells were cut out of, if any.
        limits: of a field's quality.
        counting: how cells are counted and slides judged.
        scales: by tap, mean and deviation of the log distance over calibration images.
        earlier: rows of the report on batches before this one, oldest first.
        made_by: the values that all rows share.

    Raises:
        ValueError: a cell is in no field of its source.
    """
    stated, tables = made_by.to_row(), dict[str, pa.Table]()
    with grouping(images, STRANGEST) as groups:
        # Fields contribute to their slide, and slides to their patients and their night.
        if fields is not None:
            tables[FIELDS] = fields_judged(fields, groups.fields(fields), limits, stated)
        counts = groups.slides(tables.get(FIELDS), shifts, **counting.named_thresholds)
        slides = tables[SLIDES] = calls.slides_called(counts, counting, stated, slide_schema())
        counts = groups.patients(calls.judged_slides(slides, counting), **counting.named_thresholds)
        patients = tables[PATIENTS] = calls.patients_called(
            counts, counting, stated, patient_schema()
        )
        night = NightCounts(
            groups.batch(counting.alpha, *counting.scale_and_bias),
            groups.p_values(BINS),
            {tap: groups.tap_scores(tap, *scale, TAP_EDGES) for tap, scale in scales.items()},
        )
    judged = batch_judged(night, slides, patients, earlier, counting, made_by)
    tables[BATCHES] = batch_table(night, judged | stated, batch_schema())
    return tables


def counting_at(screened: Screened, settings: Settings) -> calls.Counting:
    """Return how parasites are counted: at a laboratory with its own error rates, or without any.

    A detector's error rates are those of the fitted laboratories.
    """
    store, laboratory = screened.store, screened.laboratory
    if laboratory is None:
        rates = load_error_rates(store, screened.detector)
    else:
        rates = load_laboratory_rates(store, laboratory) if laboratory.counts_abnormal else None
    wanted = settings.negative_percent / 100
    return calls.Counting(
        Answers(rates, wanted),
        cache(lambda: Answers(rates_elsewhere(store, screened.detector), wanted)),
        settings.red_cells_per_microlitre,
        screened.detector.alpha,
        Answers(sure_rates(store, screened.detector), wanted),
        adaptation_at(laboratory),
        calls.UNREADABLE_AT_LABORATORY if laboratory and rates else calls.UNREADABLE,
        settings.detectable_percent,
        settings.field_limits.tolerated,
    )


def _seal(
    screened: Screened, made_by: Provenance, row: Row, digests: Mapping[str, str]
) -> ledger.Seal:
    batch = screened.batch
    return ledger.Seal(
        batch=batch.name,
        detector=made_by.detector,
        model=screened.model.name,
        report="/".join(report_path(batch.name, batch.batch_date)),
        report_digest=digests[IMAGES],
        slides_digest=digests[SLIDES],
        batch_digest=digests[BATCHES],
        fields_digest=digests.get(FIELDS),
        patients_digest=digests[PATIENTS],
        rows=batch.rows,
        scored=row["scored"],
        failed=row["images"] - row["scored"],
        diagnoses={name: row["diagnoses"].get(name, 0) for name in screened.model.classes},
        abnormal=row["abnormal"],
        review=row["review"],
        failures=row["failures"],
        scored_at=made_by.scored_at,
        laboratory=made_by.laboratory,
    )
