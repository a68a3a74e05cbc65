"""Keep reports: ``reports/<kind>/batch_date=YYYY-MM-DD/<batch>.parquet``.

Of ``images`` there is one row for each image, of ``slides`` and ``patients`` one for each of these,
of ``batches`` one, and where cells are cut out here, of ``fields`` one for each field of view.
``reports/html/<batch>.html`` is a page for people made from them, ``index.html`` one of all nights.
A report is staged and renamed once, so a reader of the folder sees the old one or the new one; how
those of a batch are replaced together is in `storage.reports.publication`.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.batches.ledger import list_seals
from storage.batches.manifests import Batch, Shard, load_batch, read_manifest
from storage.parquet import iterate_groups, read_footer, read_table, stage_parts
from storage.records import Tell, read_readable
from storage.reports.schemas.batches import batch_schema
from storage.store import MissingError, Store, StoreError

# Large groups are quick to scan, small ones are held in memory while they are made. A filter on the
# digest says which of them has an image.
GROUP_ROWS = 16_384
BLOOM = {"ndv": GROUP_ROWS, "fpp": 0.001}
IMAGES, FIELDS, SLIDES, BATCHES = "images", "fields", "slides", "batches"
PATIENTS = "patients"
ATTEMPT = b"slidewatch.attempt"  # in the metadata of a report's schema


def report_path(batch: str, batch_date: date, kind: str = IMAGES) -> tuple[str, ...]:
    """Locate a batch's report of a kind, relative to the store."""
    return ("reports", kind, f"batch_date={batch_date.isoformat()}", f"{batch}.parquet")


def of_attempt(schema: pa.Schema, attempt: int) -> pa.Schema:
    """Add the number of the report's attempt at its batch to the metadata of its schema."""
    return schema.with_metadata({**(schema.metadata or {}), ATTEMPT: str(attempt).encode()})


def stated_attempt(store: Store, path: tuple[str, ...]) -> int | None:
    """Read which attempt at its batch a report is of; None in those of before 0.2.0."""
    stated = (read_footer(store, *path).metadata or {}).get(ATTEMPT)
    return None if stated is None else int(stated)


def published_batch(store: Store, name: str) -> Batch:
    """Load the attempt at a batch that made its report; a later one may be unfinished.

    Raises:
        StoreError: there is no such batch, or it has no report, or its reports are being replaced.
    """
    batch = load_batch(store, name)
    path = report_path(batch.name, batch.batch_date)
    if not store.exists(*path):
        raise StoreError(f"batch {batch.name} has no report yet: slidewatch screen makes it")
    if is_withdrawn(store, batch.name, batch.batch_date):
        raise StoreError(
            f"the reports of batch {batch.name} are being replaced: wait for the run that does, or "
            "run slidewatch screen again if there is none"
        )
    stated = stated_attempt(store, path)
    if stated is not None:
        return load_batch(store, batch.name, stated)
    # Reports of before 0.2.0 do not state it, but an attempt's seal does, by the report's digest.
    digest = report_digest(store, path)
    for attempt in range(batch.attempt, 0, -1):
        found = load_batch(store, batch.name, attempt)
        if any(seal.report_digest == digest for seal in list_seals(store, found)):
            return found
    return batch


def is_withdrawn(store: Store, batch: str, batch_date: date) -> bool:
    """Tell whether the row of a batch is withdrawn, for its reports are being replaced.

    A damaged one is not: that is for those to say who read it.
    """
    path = report_path(batch, batch_date, BATCHES)
    try:
        withdrawn: bool = read_footer(store, *path).num_rows == 0
        return withdrawn
    except StoreError:  # also where there is none
        return False


def _row_groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join parts to at least `GROUP_ROWS` rows each, but for the last."""
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= GROUP_ROWS:
            # Whole columns, or every part would bring its own dictionary.
            yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries().combine_chunks()


def stage_report(stage: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> str:
    """Write a report part by part to a file that `Store.stage` gave; return its sha256."""
    groups = _row_groups(part.select(schema.names).cast(schema) for part in parts)
    bloom = {"image_id": BLOOM} if "image_id" in schema.names else None
    return stage_parts(stage, schema, groups, bloom)


def read_batches_before(
    store: Store, day: date, limit: int, on_damage: Tell | None = None
) -> pa.Table:
    """Read the rows of the last batches of days before the given one, oldest first.

    See `read_readable` for damaged ones.
    """
    paths: list[tuple[str, ...]] = []
    for folder in reversed(store.names("reports", BATCHES)):
        if folder.removeprefix("batch_date=") < day.isoformat() and len(paths) < limit:
            names = store.names("reports", BATCHES, folder)
            paths += [("reports", BATCHES, folder, name) for name in reversed(names)]
    files = ["/".join(path) for path in reversed(paths[:limit])]
    rows = read_readable(lambda file: _as_of_now(read_table(store, file)), files, on_damage)
    return pa.concat_tables([batch_schema().empty_table(), *rows])


def _as_of_now(rows: pa.Table) -> pa.Table:
    """Give rows of an older report on batches the columns of today, null where it lacks them."""
    schema = batch_schema()
    there = set(rows.column_names)
    columns = [
        rows[each.name].cast(each.type) if each.name in there else pa.nulls(len(rows), each.type)
        for each in schema
    ]
    return pa.table(columns, schema=schema)


def newest_batches(
    store: Store, wanted: Callable[[str], bool], on_damage: Tell | None = None
) -> Iterator[tuple[dict[str, Any], datetime]]:
    """Read the row of every wanted batch, and when it was published, the newest first.

    See `read_readable` for damaged ones. A row that is withdrawn is of no published batch.
    """
    for folder in reversed(store.names("reports", BATCHES)):
        for name in reversed(store.names("reports", BATCHES, folder)):
            if wanted(name.removesuffix(".parquet")):
                file = "/".join(("reports", BATCHES, folder, name))
                for rows in read_readable(partial(read_table, store), [file], on_damage):
                    for row in rows.to_pylist():
                        yield row, store.modified(file)


def rows_by_shard(store: Store, batch: Batch) -> Iterator[tuple[Shard, pa.Table]]:
    """Read the rows of a batch's report on images, in the manifest's order and by its shards.

    Raises:
        StoreError: the report is not of the manifest.
    """
    parts = iterate_groups(store, *report_path(batch.name, batch.batch_date))
    waiting: pa.Table | None = None
    for shard in batch.shards():
        told = read_manifest(store, batch, shard, ["uri"])["uri"].to_pylist()
        while waiting is None or waiting.num_rows < len(told):
            more = next(parts, None)
            if more is None:
                break
            waiting = more if waiting is None else pa.concat_tables([waiting, more])
        if waiting is None or waiting["uri"].slice(0, len(told)).to_pylist() != told:
            raise StoreError(
                f"the report of batch {batch.name} is not of its present manifest: screen it again"
            )
        yield shard, waiting.slice(0, len(told))
        waiting = waiting.slice(len(told))


def report_digest(store: Store, path: tuple[str, ...]) -> str | None:
    """Compute the sha256 of a report; None where there is none."""
    try:
        return store.digest(*path)
    except MissingError:
        return None
