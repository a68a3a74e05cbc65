"""Keep reports: ``reports/<kind>/batch_date=YYYY-MM-DD/<batch>.parquet``, each renamed once.

``reports/html/`` has pages made from them; `storage.reports.publication` replaces all of a batch.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage import records
from storage.batches.manifests import Batch, Shard, load_batch, read_manifest
from storage.parquet import groups_of, iterate_groups, read_footer, read_table, stage_parts
from storage.store import MissingError, Store, StoreError

# Large groups are quick to scan; small ones take little memory while they are written. A Bloom
# filter on the digest finds the group of an image.
GROUP_ROWS = 16_384
BLOOM = {"ndv": GROUP_ROWS, "fpp": 0.001}
IMAGES, FIELDS, SLIDES, BATCHES = "images", "fields", "slides", "batches"
PATIENTS, PERSONS = "patients", "persons"
ATTEMPT = b"slidewatch.attempt"  # in the metadata of a report's schema


def report_path(batch: str, batch_date: date, kind: str = IMAGES) -> tuple[str, ...]:
    """Locate a batch's report of a kind, relative to the store."""
    return ("reports", kind, f"batch_date={batch_date.isoformat()}", f"{batch}.parquet")


def read_report(store: Store, batch: Batch, kind: str) -> pa.Table:
    """Read a batch's report of a kind."""
    return read_table(store, *report_path(batch.name, batch.batch_date, kind))


def find_report(store: Store, batch: Batch, kind: str) -> pa.Table:
    """Read a batch's report of a kind; a table without columns if there is no such report."""
    try:
        return read_report(store, batch, kind)
    except MissingError:
        return pa.table({})


def of_attempt(schema: pa.Schema, attempt: int) -> pa.Schema:
    """Add the number of the report's attempt at its batch to the metadata of its schema."""
    return schema.with_metadata({**(schema.metadata or {}), ATTEMPT: str(attempt).encode()})


def stated_attempt(store: Store, path: tuple[str, ...]) -> int:
    """Read the number of a report's attempt at its batch."""
    return int(read_footer(store, *path).metadata[ATTEMPT])


def published_batch(store: Store, name: str) -> Batch:
    """Load the attempt that made a batch's report; StoreError without one that is published."""
    batch = load_batch(store, name)
    path = report_path(batch.name, batch.batch_date)
    if not store.exists(*path):
        raise StoreError(f"batch {batch.name} has no report yet: slidewatch screen makes it")
    if is_withdrawn(store, batch.name, batch.batch_date):
        raise StoreError(
            f"the reports of batch {batch.name} are being replaced: wait for that run, or "
            "run slidewatch screen again if there is none"
        )
    return load_batch(store, batch.name, stated_attempt(store, path))


def is_withdrawn(store: Store, batch: str, batch_date: date) -> bool:
    """Return whether a batch's row is withdrawn; a damaged row counts as not withdrawn."""
    path = report_path(batch, batch_date, BATCHES)
    try:
        return bool(read_footer(store, *path).num_rows == 0)
    except StoreError:  # or there is no such report
        return False


def _row_groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join parts to `GROUP_ROWS` rows or more each; only a single one may have fewer."""
    held: list[pa.Table] = []
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= GROUP_ROWS:
            if held:
                yield _joined(held)
            held, waiting = waiting, []
    if held or waiting:
        yield _joined([*held, *waiting])


def _joined(parts: list[pa.Table]) -> pa.Table:
    # Whole columns, because otherwise every part would bring its own dictionary.
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def stage_report(stage: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> str:
    """Write a report part by part to a file that `Store.stage` gave; return its sha256."""
    groups = _row_groups(part.select(schema.names).cast(schema) for part in parts)
    bloom = {"image_id": BLOOM} if "image_id" in schema.names else None
    # Measured values and addresses differ in every row: a dictionary of them makes a file a fifth
    # larger, and takes twice the time.
    repeating = [each.name for each in schema if pa.types.is_dictionary(each.type)]
    return stage_parts(stage, schema, groups, bloom_filter_options=bloom, use_dictionary=repeating)


def newest_batches(
    store: Store, wanted: Callable[[str], bool], on_damage: records.Tell | None = None
) -> Iterator[tuple[dict[str, Any], datetime]]:
    """Yield the row of every wanted batch that is not withdrawn, and its time, newest first."""
    for folder in reversed(store.names("reports", BATCHES)):
        names = store.names("reports", BATCHES, folder)
        files = [
            "/".join(("reports", BATCHES, folder, name))
            for name in names
            if wanted(name.removesuffix(".parquet"))
        ]
        found = [
            (row, store.modified(file))
            for file in files
            for rows in records.read_readable(partial(read_table, store), [file], on_damage)
            for row in rows.to_pylist(maps_as_pydicts="strict")
        ]
        yield from sorted(found, key=lambda pair: pair[0]["scored_at"], reverse=True)


def rows_by_shard(store: Store, batch: Batch) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield the report on images by shard; StoreError if it does not match the manifest."""
    parts = iterate_groups(store, *report_path(batch.name, batch.batch_date))
    of_shards = groups_of(parts, batch.shard_rows)
    for shard in batch.shards():
        uris = read_manifest(store, batch, shard, ["uri"])["uri"].to_pylist()
        rows = next(of_shards, None)
        if rows is None or rows["uri"].to_pylist() != uris:
            raise StoreError(
                f"the report of batch {batch.name} does not match its manifest: screen it again"
            )
        yield shard, rows


def report_digest(store: Store, path: tuple[str, ...]) -> str | None:
    """Compute the sha256 of a report; None if there is none."""
    try:
        return store.digest(*path)
    except MissingError:
        return None
