"""Judge the slides, patients and night of a batch, from its published report on images."""

from collections.abc import Iterator, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.screened import Screened
from flows.jobs.verified import load_detector
from flows.monitoring import console
from flows.prefect.decorators import task
from flows.settings import Settings
from flows.smears.jobs.grouped_rows import Grouped, GroupingJob, Rules, group_piece
from flows.smears.stages.chosen_thresholds import counting_at
from flows.smears.stages.pieces import pieces_of
from storage import kinds
from storage.batches import ledger, manifests
from storage.parquet import read_table
from storage.reports.publication import publication
from storage.reports.tables import (
    BATCHES,
    FIELDS,
    GROUP_ROWS,
    IMAGES,
    PATIENTS,
    SLIDES,
    newest_batches,
    published_batch,
    read_report,
    report_digest,
    report_path,
)
from storage.smears import segmentations
from storage.smears.call_seals import CallSeal, read_call_seal, write_call_seal
from storage.smears.schemas.batches import BATCH_SCHEMA, read_batches_before
from storage.store import Store, StoreError
from tasks.reports.image_columns import Provenance, plain
from tasks.smears.reports.night.counts import NightCounts, Row, batch_table, joined, summaries
from tasks.smears.reports.night.judged import batch_judged

IN_ORDER_OF = {SLIDES: ("slide_id",), PATIENTS: ("patient_id", "slide_id")}  # as grouped
NIGHTS_READ = 60  # earlier batches to read: twice the number compared with, as some are omitted


def valid_call(store: Store, batch: manifests.Batch, seal: ledger.Seal) -> CallSeal | None:
    """Read the seal of the calls on a sealed report; None if one of their reports is missing."""
    known = read_call_seal(store, batch, seal.detector)
    if known is None or known.report_digest != seal.report_digest:
        return None
    for kind, digest in known.digests.items():
        if report_digest(store, report_path(batch.name, batch.batch_date, kind)) != digest:
            return None
    return known


def batch_report(store: Store, batch: manifests.Batch) -> Row:
    """Read the row of a batch in the history of nights."""
    (row,) = summaries(read_report(store, batch, BATCHES))
    return row


def nights_before(store: Store, day: date, limit: int) -> Sequence[Row]:
    """Read the rows of the last batches before a day, oldest first."""
    return summaries(read_batches_before(store, day, limit, on_damage=console.warn))


def screened_batch(store: Store, name: str | None) -> manifests.Batch:
    """Load the batch of a published report, by default the newest; StoreError without."""
    if name is None:
        rows = (row for row, _ in newest_batches(store, lambda name: True, console.warn))
        if (row := next((row for row in rows if row["images"]), None)) is None:
            raise StoreError("no batch has a report on any image yet: run slidewatch screen first")
        name = str(row["batch"])
    return published_batch(store, name)


@task
def call_batch(
    client: Client, screened: Screened, settings: Settings, seal: ledger.Seal
) -> CallSeal:
    """Group the images of a sealed report on workers, judge the groups, and publish the reports.

    A resumed run writes the same bytes, because only earlier nights are compared with.
    """
    store, batch = screened.store, screened.batch
    model, detector = screened.model, screened.detector
    made_by = Provenance(
        model.name, detector.name, batch.name, batch.batch_date, seal.scored_at, model.arithmetic
    )
    scales = load_detector(store, detector).scales
    rules = Rules(settings.field_limits, counting_at(screened, settings), scales, made_by)
    segmentation = segmentations.segmentation_of(store, batch.images)
    fields = segmentations.read_fields(store, segmentation) if segmentation else None
    parts = plan_parts(store, batch, by_slide=detector.slides is not None)
    pieces = pieces_of(parts, fields, GROUP_ROWS)
    shifts = read_table(store, *ledger.slides_path(batch, screened.key))

    def jobs() -> Iterator[GroupingJob]:
        for numbers, of_piece in pieces:
            some = [parts[number] for number in numbers]
            rows = range(some[0].rows.start, some[-1].rows.stop) if some else range(0)
            slides = {slide.slide for part in some for slide in part.slides}
            names = pa.array(list(slides), pa.string())
            theirs = shifts.filter(pc.is_in(shifts["slide_id"], names))
            cut = None if fields is None else fields.take(of_piece)
            yield GroupingJob(store, batch, rows, theirs, cut, rules)

    grouped = list(run_jobs(client, group_piece, jobs(), title=f"call {batch.name}"))
    tables, night = joined_groups(grouped, [numbers for _, numbers in pieces])
    earlier = nights_before(store, batch.batch_date, NIGHTS_READ)
    groups = (tables[SLIDES], tables[PATIENTS])
    judged = batch_judged(night, *groups, earlier, rules.counting, made_by, tables.get(FIELDS))
    tables[BATCHES] = batch_table(night, judged | made_by.to_row(), BATCH_SCHEMA)
    with publication(store, batch, made_from=IMAGES) as reports:
        for kind, table in tables.items():
            reports.add(kind, kinds.tables()[kind].schema([], []), [table])
        reports.appear()
    called = CallSeal(report_digest=seal.report_digest, digests=reports.digests)
    write_call_seal(store, batch, seal.detector, called)
    return called


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
