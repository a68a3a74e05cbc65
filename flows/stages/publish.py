"""Publish a batch: join the rows of its parts into reports, and seal them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Protocol

import pyarrow as pa

from flows.jobs.scoring.report_rows import finished_rows
from flows.jobs.scoring.scores import provenance_of
from flows.jobs.verified import adaptation_at, load_fitted_detector
from flows.monitoring.console import warn
from flows.monitoring.prefect_runs import task
from flows.settings import Settings
from flows.stages.counting.chosen_thresholds import load_error_rates, load_site_rates
from storage.batches.ledger import (
    Seal,
    discard_scores,
    read_seal,
    screening_key,
    screening_start,
    shifts_path,
    site_name,
    write_seal,
)
from storage.batches.manifests import Batch
from storage.batches.segmentations import read_fields, segmentation_of
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.models.sites import SiteCard, find_learning
from storage.models.statistics import load_statistics
from storage.parquet import read_table
from storage.reports.publication import SCHEMAS, Publication, publication
from storage.reports.schemas.images import image_schema
from storage.reports.tables import (
    BATCHES,
    FIELDS,
    IMAGES,
    PATIENTS,
    SLIDES,
    published_batch,
    read_batches_before,
    report_digest,
    report_path,
)
from storage.store import Store, StoreError
from tasks.counting.call import Answers
from tasks.reports.field_rows import FieldTally
from tasks.reports.image_columns import Provenance
from tasks.reports.night.batch_counts import NightTally
from tasks.reports.night.summary import BatchSummary
from tasks.reports.night.tally import BatchTally
from tasks.reports.parasite_counts import UNREADABLE, UNREADABLE_AT_SITE, Counting, CountTally
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
        BATCHES: seal.batch_digest,
    }
    # Seals older than the report on slides have None.
    if None in sealed.values():
        return None
    if seal.fields_digest:
        sealed[FIELDS] = seal.fields_digest
    if seal.patients_digest:
        sealed[PATIENTS] = seal.patients_digest
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


class CountsRows(Protocol):
    """A count over image rows that come in parts."""

    def count(self, rows: pa.Table) -> None:
        """Count image rows, with their ``q_value``."""


class Tally(CountsRows, Protocol):
    """A count over image rows from which the rows of a report are made."""

    def table(self, made_by: Provenance) -> pa.Table:
        """Make the rows of the report."""


@task
def publish(
    store: Store,
    settings: Settings,
    batch: Batch,
    card: ModelCard,
    detector: DetectorCard,
    parts: int,
    site: SiteCard | None = None,
) -> Seal:
    """Join the parts' rows into the reports, publish these together, and seal them.

    A resumed run writes the same bytes, because only earlier nights are compared with.
    """
    key = screening_key(detector.name, site.name if site else None)
    scored_at = screening_start(store, batch, key)
    made_by = replace(
        provenance_of(batch, card.name, detector.name, scored_at, site),
        imported=imported(store, detector, site),
        arithmetic=card.arithmetic,
    )
    tallies = _tallies(settings, store, batch, detector, site)
    parasites = CountTally(counting_at(settings, store, detector, site))
    with publication(store, batch) as reports:
        counts = _stage(reports, key, card, detector, parts, tallies, parasites, made_by)
        if counts.images != batch.rows:
            raise RuntimeError(f"{counts.images} rows, but {batch.rows} images")
        reports.appear()
    seal = _seal(batch, card, made_by, counts, reports.digests)
    write_seal(store, batch, seal)
    discard_scores(store, batch, key)
    return seal


def imported(store: Store, detector: DetectorCard, site: SiteCard | None) -> str | None:
    """Describe the parts of a detector and a site that came from other stores; None without any."""
    try:
        given = load_statistics(store, detector.model, detector.statistics_version).origin
    except StoreError as error:  # a night does not need them
        warn(f"what other stores gave to detector {detector.name} is not known: {error}")
        given = "not known"
    found = [f"detector {detector.name}: {given}"] if given else []
    found += [f"site {site.label}: {site.origin}"] if site and site.origin else []
    return "; ".join(found) or None


def _stage(
    reports: Publication,
    key: str,
    card: ModelCard,
    detector: DetectorCard,
    parts: int,
    tallies: Mapping[str, Tally],
    parasites: CountTally,
    made_by: Provenance,
) -> NightTally:
    """Stage all reports of a batch; return the night's counts."""
    store, batch = reports.store, reports.batch
    rows = _counted_parts(store, batch, key, parts, [*tallies.values(), parasites], card, detector)
    reports.add(IMAGES, image_schema(card.classes, list(detector.taps)), rows)
    slides, night = tallies[SLIDES], tallies[BATCHES]
    assert isinstance(slides, SlideTally)
    assert isinstance(night, BatchTally)
    for part in range(parts):
        slides.count_shifts(read_table(store, *shifts_path(batch, key, part)))
    for kind, tally in tallies.items():
        table = tally.table(made_by)
        # Fields contribute to their slide, and slides to their patients and their night.
        if kind == FIELDS:
            slides.count_fields(table)
        if kind == SLIDES:
            night.count_slides(table)
            patients = parasites.patients(table, made_by)
            night.count_patients(patients)
            night.expect(*parasites.night(table, made_by))
            reports.add(PATIENTS, SCHEMAS[PATIENTS](), [patients])
            table = parasites.slide_columns(table, made_by)
        reports.add(kind, SCHEMAS[kind](), [table])
    return night.night


def _tallies(
    settings: Settings,
    store: Store,
    batch: Batch,
    detector: DetectorCard,
    site: SiteCard | None,
) -> dict[str, Tally]:
    """Make a tally for each report except the one on images, in the order of publication."""
    fitted = load_fitted_detector(store, detector)
    segmentation = segmentation_of(store, batch.images)
    tallies: dict[str, Tally] = {}
    if segmentation:
        tallies[FIELDS] = FieldTally(read_fields(store, segmentation), settings.field_limits)
    tallies[SLIDES] = SlideTally(
        detector.alpha,
        detectable=settings.detectable_percent,
        tolerated=settings.field_limits.tolerated,
    )
    earlier = nights_before(store, batch.batch_date, NIGHTS_READ)
    unlearned = not_learned(store, site.name, earlier) if site else None
    night = NightTally(fitted.scales, detector.alpha)
    tallies[BATCHES] = BatchTally(night, earlier, detector.alpha, unlearned)
    return tallies


def not_learned(store: Store, site: str, earlier: Sequence[BatchSummary]) -> str | None:
    """Say why a site that drifts has not learned its last night; None if it has.

    A night is learned after its publication, so the next night reports it.
    """
    here = [each for each in earlier if each.site and site_name(each.site) == site]
    if not here:
        return None
    try:
        last = published_batch(store, here[-1].batch)
    except StoreError:  # it is being screened again
        return None
    learning = find_learning(store, site, last.key)
    if learning is None or not learning.drifts:
        return None
    return f"site {site} has not learned the night before, {last.name}: {learning.reason}"


def counting_at(
    settings: Settings, store: Store, detector: DetectorCard, site: SiteCard | None
) -> Counting:
    """Return how parasites are counted: at a site with its own error rates, or without any.

    A detector's error rates are those of the fitted laboratories.
    """
    rates = load_site_rates(store, site) if site else load_error_rates(store, detector)
    answers = Answers(rates, settings.negative_percent / 100)
    return Counting(
        answers,
        settings.red_cells_per_microlitre,
        adaptation_at(site),
        UNREADABLE_AT_SITE if site and rates else UNREADABLE,
    )


def _counted_parts(
    store: Store,
    batch: Batch,
    key: str,
    parts: int,
    tallies: Sequence[CountsRows],
    card: ModelCard,
    detector: DetectorCard,
) -> Iterator[pa.Table]:
    """Read the rows of the batch's parts, count them in all tallies, and apply second looks.

    Tallies count the first pass, for which the error rates of a count are known.
    """
    for marked, rows in finished_rows(store, batch, key, parts, card, detector, warn):
        for tally in tallies:
            tally.count(marked)
        yield rows


def _seal(
    batch: Batch,
    card: ModelCard,
    made_by: Provenance,
    counts: NightTally,
    digests: Mapping[str, str],
) -> Seal:
    return Seal(
        batch=batch.name,
        detector=made_by.detector,
        model=card.name,
        report="/".join(report_path(batch.name, batch.batch_date)),
        report_digest=digests[IMAGES],
        slides_digest=digests[SLIDES],
        batch_digest=digests[BATCHES],
        fields_digest=digests.get(FIELDS),
        patients_digest=digests[PATIENTS],
        rows=batch.rows,
        scored=counts.scored,
        failed=counts.images - counts.scored,
        diagnoses={name: counts.diagnoses[name] for name in card.classes},
        abnormal=counts.abnormal,
        review=counts.verdicts[Verdict.REVIEW],
        failures=dict(counts.failures),
        scored_at=made_by.scored_at,
        site=made_by.site,
    )
