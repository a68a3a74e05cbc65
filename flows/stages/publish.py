"""Publish a batch: join the rows of its parts into reports, and seal them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date

import pyarrow as pa

from flows.jobs.scoring.report_rows import finished_rows
from flows.jobs.scoring.scores import provenance_of
from flows.jobs.scoring.screened import Screened
from flows.jobs.verified import adaptation_at, load_fitted_detector
from flows.monitoring.console import warn
from flows.monitoring.prefect_runs import task
from flows.settings import Settings
from flows.stages.counting.chosen_thresholds import load_error_rates, load_laboratory_rates
from storage.batches.ledger import (
    Seal,
    discard_scores,
    read_seal,
    screening_start,
    shifts_path,
    write_seal,
)
from storage.batches.manifests import Batch
from storage.batches.segmentations import read_fields, segmentation_of
from storage.parquet import read_table
from storage.reports.publication import SCHEMAS, Publication, publication
from storage.reports.schemas.images import image_schema
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
from tasks.reports.field_rows import FieldTally
from tasks.reports.image_columns import Provenance
from tasks.reports.night.batch_counts import NightTally
from tasks.reports.night.summary import BatchSummary
from tasks.reports.night.tally import BatchTally
from tasks.reports.parasite_counts import UNREADABLE, UNREADABLE_AT_LABORATORY, Counting, CountTally
from tasks.reports.slide_rows import SlideTally
from tasks.types import Verdict

NIGHTS_READ = 60  # earlier batches to read: twice the number compared with, as some are omitted


def valid_seal(store: Store, batch: Batch, key: str) -> Seal | None:
    """Read the seal of a screening's reports; None if any of the sealed reports is missing."""
    seal = read_seal(store, batch, key)
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


def batch_report(store: Store, batch: Batch) -> BatchSummary:
    """Read the row of a batch in the history of nights."""
    path = report_path(batch.name, batch.batch_date, BATCHES)
    return BatchSummary.parse(read_table(store, *path).to_pylist()[0])


def nights_before(store: Store, day: date, limit: int) -> list[BatchSummary]:
    """Read the summaries of the last batches before a day, oldest first."""
    rows = read_batches_before(store, day, limit, on_damage=warn).to_pylist()
    return [BatchSummary.parse(row) for row in rows]


Tally = FieldTally | SlideTally | BatchTally | CountTally  # a count over image rows, in parts


@task
def publish(of: Screened, settings: Settings, parts: int) -> Seal:
    """Join the parts' rows into the reports, publish these together, and seal them.

    A resumed run writes the same bytes, because only earlier nights are compared with.
    """
    store, batch = of.store, of.batch
    made_by = replace(
        provenance_of(of, screening_start(store, batch, of.key)),
        arithmetic=of.model.arithmetic,
    )
    with publication(store, batch) as reports:
        counts = _stage(reports, of, settings, parts, made_by)
        if counts.images != batch.rows:
            raise RuntimeError(f"{counts.images} rows, but {batch.rows} images")
        reports.appear()
    seal = _seal(of, made_by, counts, reports.digests)
    write_seal(store, batch, seal)
    discard_scores(store, batch, of.key)
    return seal


def _stage(
    reports: Publication, of: Screened, settings: Settings, parts: int, made_by: Provenance
) -> NightTally:
    """Stage all reports of a batch; return the night's counts."""
    store, batch, detector = of.store, of.batch, of.detector
    segmentation = segmentation_of(store, batch.images)
    fields = (
        FieldTally(read_fields(store, segmentation), settings.field_limits)
        if segmentation
        else None
    )
    slides = SlideTally(
        detector.alpha,
        detectable=settings.detectable_percent,
        tolerated=settings.field_limits.tolerated,
    )
    earlier = nights_before(store, batch.batch_date, NIGHTS_READ)
    counts = NightTally(load_fitted_detector(store, detector).scales, detector.alpha)
    night = BatchTally(counts, earlier, detector.alpha)
    parasites = CountTally(counting_at(of, settings))

    every: list[Tally] = [slides, night, parasites, *([fields] if fields else [])]
    reports.add(
        IMAGES, image_schema(of.model.classes, list(detector.taps)), _counted(of, parts, every)
    )
    for part in range(parts):
        slides.count_shifts(read_table(store, *shifts_path(batch, of.key, part)))
    made: dict[str, pa.Table] = {}
    # Fields contribute to their slide, and slides to their patients and their night.
    if fields:
        made[FIELDS] = fields.table(made_by)
        slides.count_fields(made[FIELDS])
    rows = slides.table(made_by)
    night.count_slides(rows)
    made[PATIENTS] = parasites.patients(rows, made_by)
    night.count_patients(made[PATIENTS])
    night.expect(*parasites.night(rows, made_by))
    made[SLIDES] = parasites.slide_columns(rows, made_by)
    made[BATCHES] = night.table(made_by)
    for kind, table in made.items():
        reports.add(kind, SCHEMAS[kind](), [table])
    return counts


def counting_at(of: Screened, settings: Settings) -> Counting:
    """Return how parasites are counted: at a laboratory with its own error rates, or without any.

    A detector's error rates are those of the fitted laboratories.
    """
    store, laboratory = of.store, of.laboratory
    rates = (
        load_laboratory_rates(store, laboratory)
        if laboratory
        else load_error_rates(store, of.detector)
    )
    answers = Answers(rates, settings.negative_percent / 100)
    return Counting(
        answers,
        settings.red_cells_per_microlitre,
        adaptation_at(laboratory),
        UNREADABLE_AT_LABORATORY if laboratory and rates else UNREADABLE,
    )


def _counted(of: Screened, parts: int, tallies: Sequence[Tally]) -> Iterator[pa.Table]:
    """Read the rows of the batch's parts, and count them in all tallies."""
    for rows in finished_rows(of, parts, warn):
        for tally in tallies:
            tally.count(rows)
        yield rows


def _seal(
    of: Screened, made_by: Provenance, counts: NightTally, digests: Mapping[str, str]
) -> Seal:
    batch = of.batch
    return Seal(
        batch=batch.name,
        detector=made_by.detector,
        model=of.model.name,
        report="/".join(report_path(batch.name, batch.batch_date)),
        report_digest=digests[IMAGES],
        slides_digest=digests[SLIDES],
        batch_digest=digests[BATCHES],
        fields_digest=digests.get(FIELDS),
        patients_digest=digests[PATIENTS],
        rows=batch.rows,
        scored=counts.scored,
        failed=counts.images - counts.scored,
        diagnoses={name: counts.diagnoses[name] for name in of.model.classes},
        abnormal=counts.abnormal,
        review=counts.verdicts[Verdict.REVIEW],
        failures=dict(counts.failures),
        scored_at=made_by.scored_at,
        laboratory=made_by.laboratory,
    )
