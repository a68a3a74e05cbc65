"""Publish a batch: join the rows of its parts into reports, and seal them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring import scores
from flows.jobs.scoring.finish import FinishJob, Grouped, Rules, finish_parts
from flows.jobs.scoring.plan import pieces_of
from flows.jobs.scoring.screened import Screened
from flows.jobs.verified import adaptation_of, load_detector
from flows.monitoring import console
from flows.prefect.decorators import task
from flows.settings import Settings
from flows.stages.counting.chosen_thresholds import (
    answers_elsewhere,
    load_error_rates,
    measured_on,
    sure_rates,
)
from flows.stages.scoring import ScoredParts
from storage import kinds
from storage.batches import ledger, manifests, segmentations
from storage.models import detectors
from storage.parquet import iterate_verified, read_table
from storage.reports.publication import publication
from storage.reports.schemas.batches import batch_schema
from storage.reports.schemas.images import image_schema
from storage.reports.tables import (
    BATCHES,
    FIELDS,
    GROUP_ROWS,
    IMAGES,
    PATIENTS,
    SLIDES,
    read_batches_before,
    report_digest,
    report_path,
)
from storage.store import Store
from tasks.counting.call import Answers
from tasks.reports import calls
from tasks.reports.image_columns import Provenance, plain, repeated
from tasks.reports.night.counts import NightCounts, Row, batch_table, joined, summaries
from tasks.reports.night.judged import batch_judged

IN_ORDER_OF = {SLIDES: ("slide_id",), PATIENTS: ("patient_id", "slide_id")}  # as grouped
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


@task
def publish(
    client: Client, screened: Screened, settings: Settings, scored: ScoredParts
) -> ledger.Seal:
    """Finish scored parts on workers, join what they made into the reports, and publish these.

    A resumed run writes the same bytes, because only earlier nights are compared with.
    """
    store, batch = screened.store, screened.batch
    begun = ledger.screening_start(store, batch, screened.key)
    made_by = replace(scores.provenance_of(screened, begun), arithmetic=screened.model.arithmetic)
    rules = Rules(
        settings.field_limits,
        counting_at(screened, settings),
        load_detector(store, screened.detector).scales,
        made_by,
    )
    segmentation = segmentations.segmentation_of(store, batch.images)
    fields = segmentations.read_fields(store, segmentation) if segmentation else None
    pieces = pieces_of(scored.parts, fields, GROUP_ROWS)
    jobs = _finish_jobs(screened, scored, pieces, fields, rules)
    grouped: list[Grouped] = []

    def finished() -> Iterator[tuple[tuple[str, ...], str]]:
        for piece in run_jobs(client, finish_parts, jobs, title=f"publish {batch.name}"):
            grouped.append(piece.grouped)
            yield piece.path, piece.digest

    schema = image_schema(screened.model.classes, list(screened.detector.taps))
    with publication(store, batch) as reports:
        reports.add(IMAGES, schema, iterate_verified(store, finished()))
        tables, night = joined_groups(grouped, [numbers for _, numbers in pieces])
        earlier = nights_before(store, batch.batch_date, NIGHTS_READ)
        judged = batch_judged(
            night, tables[SLIDES], tables[PATIENTS], earlier, rules.counting, made_by
        )
        tables[BATCHES] = batch_table(night, judged | made_by.to_row(), batch_schema())
        for kind, table in tables.items():
            reports.add(kind, kinds.tables()[kind].schema([], []), [table])
        (row,) = summaries(tables[BATCHES])
        if row["images"] != batch.rows:
            raise RuntimeError(f"{row['images']} rows, but {batch.rows} images")
        reports.appear()
    seal = _seal(screened, made_by, row, reports.digests)
    ledger.write_seal(store, batch, seal)
    ledger.discard_scores(store, batch, screened.key)
    return seal


def _finish_jobs(
    screened: Screened,
    scored: ScoredParts,
    pieces: Sequence[tuple[range, pa.Array]],
    fields: pa.Table | None,
    rules: Rules,
) -> Iterator[FinishJob]:
    """Make the jobs that finish pieces of a batch."""
    copies = repeated([scored.heads])
    if copies.any():
        console.warn(
            f"{copies.sum():,} of {len(copies):,} images are copies of others of the batch: "
            "they count once, and their slides are for review"
        )
    for numbers, of_piece in pieces:
        some = tuple(scored.parts[number].rows for number in numbers)
        rows = slice(some[0].start, some[-1].stop) if some else slice(0)
        cut = None if fields is None else fields.take(of_piece)
        yield FinishJob(screened, some, scored.q_values, copies[rows], cut, rules)


def joined_groups(
    grouped: Sequence[Grouped], of_pieces: Sequence[pa.Array]
) -> tuple[dict[str, pa.Table], NightCounts]:
    """Join the rows of reports, in their order, and the counts of a night, from all its pieces.

    ``of_pieces`` are the numbers of each piece's fields.
    """
    tables = {
        kind: pa.concat_tables(plain(each.tables[kind]) for each in grouped)
        for kind in grouped[0].tables
    }
    for kind, names in IN_ORDER_OF.items():
        order = [(name, "ascending") for name in names]
        tables[kind] = tables[kind].take(pc.sort_indices(tables[kind], order))
    if FIELDS in tables:
        order = pc.sort_indices(pa.chunked_array(of_pieces, pa.int64()))
        tables[FIELDS] = tables[FIELDS].take(order)
    return tables, joined([each.night for each in grouped])


def counting_at(screened: Screened, settings: Settings) -> calls.Counting:
    """Return how parasites are counted: with the error rates of the detector, or without any.

    The detector that comes with slidewatch knows nobody's slides, so nobody is negative with it.
    """
    store, detector, wanted = screened.store, screened.detector, settings.negative_percent / 100
    measured = None if detectors.is_shipped(detector) else measured_on(detector.counting)
    return calls.Counting(
        Answers(load_error_rates(store, detector), wanted),
        partial(answers_elsewhere, store, detector, wanted),
        settings.red_cells_per_microlitre,
        detector.alpha,
        Answers(sure_rates(store, detector), wanted),
        measured,
        adaptation_of(detector),
        detector.counts_abnormal,
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
    )
