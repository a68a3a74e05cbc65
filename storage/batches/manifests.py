"""Keep a batch and its frozen manifest: ``batches/<batch>/{batch.json, manifest.parquet}``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage import parquet, records
from storage.store import MissingError, Store, StoreError, check_name, which

Sources = str | tuple[str, ...]  # of the images: one source, or several
HERE = "store:"  # in the record of a batch, before images inside the store, which may be moved
# A job costs the coordinator a millisecond or more: where a night has more shards, each is twice as
# large. Even larger ones take more memory, and more is lost with a worker.
SHARDS = 1_000
GROUPS = 256  # row groups of a manifest at most; each takes 17 KiB in every process


def key_of(name: str, attempt: int) -> str:
    """Return the folder name of an attempt at a batch; a later one's is never a valid batch name.

    >>> key_of("night", 1), key_of("night", 2)
    ('night', 'night~2')
    """
    return name if attempt == 1 else f"{name}~{attempt}"


class BatchPlan(records.Entry):
    """The plan of a batch; ``images`` says where its manifest comes from.

    A forced batch starts again as its next ``attempt``. Features of ``earlier`` batches may be
    reused. ``sequence`` counts the batches of a store as they start, because clocks go wrong.
    """

    name: str
    attempt: int = 1
    images: Sources
    limit: int | None
    shard_rows: int
    batch_date: date
    started_at: datetime
    earlier: tuple[str, ...] = ()
    sequence: int = 0

    @property
    def key(self) -> str:
        """Return this attempt's folder name; see `key_of`."""
        return key_of(self.name, self.attempt)


class Batch(BatchPlan, records.Record):
    """A batch, frozen when it started."""

    rows: int
    manifest_digest: str

    @classmethod
    def read(cls, store: Store, *parts: str) -> "Batch":
        """Read the record; ``images`` that the store itself holds are where it is now."""
        batch = super().read(store, *parts)
        if not isinstance(batch.images, str) or not batch.images.startswith(HERE):
            return batch
        return batch.model_copy(update={"images": store.address(batch.images.removeprefix(HERE))})

    def shards(self) -> Iterator["Shard"]:
        """Yield the batch's shards in order; each owns whole zarr chunks."""
        return (self.shard(number) for number in range(-(-self.rows // self.shard_rows)))

    def shard(self, number: int) -> "Shard":
        """Return the n-th shard; the last one may be shorter than the others."""
        start = number * self.shard_rows
        return Shard(number, start, min(start + self.shard_rows, self.rows))

    def by_shard(self, rows: NDArray[np.intp]) -> Iterator[tuple["Shard", NDArray[np.intp]]]:
        """Yield the shards that have some of the batch's ``rows`` (n,), and those within each."""
        of_shard = rows // self.shard_rows
        for number in np.unique(of_shard).tolist():
            shard = self.shard(number)
            yield shard, rows[of_shard == number] - shard.start


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of a batch's manifest."""

    number: int
    start: int
    stop: int


def freeze_batch(store: Store, plan: BatchPlan, rows: int, parts: Iterator[pa.Table]) -> Batch:
    """Write a batch's manifest (`tasks.images.manifest.SCHEMA`), which never changes.

    Its ``rows`` come in one or more ``parts``, because they may be more than memory holds.
    """
    check_name("batch", plan.name)
    shard_rows = plan.shard_rows * (2 if rows > SHARDS * plan.shard_rows else 1)
    plan = plan.model_copy(update={"shard_rows": shard_rows})
    first = next(parts)
    # A worker reads the row group of its shard. The footer describes every group, and all processes
    # keep it, so the number of groups is limited.
    shards = -(-rows // (GROUPS * shard_rows))
    groups = parquet.groups_of(chain([first], parts), max(1, shards) * shard_rows)
    with (
        store.stage() as stage,
        records.once(f"batch {plan.name} exists already, and its manifest is frozen"),
    ):
        digest = parquet.stage_parts(stage, first.schema, groups)
        batch = Batch(**plan.model_dump(), rows=rows, manifest_digest=digest)
        kept, own = batch, store.address("")
        if isinstance(batch.images, str) and batch.images.startswith(own):
            kept = batch.model_copy(update={"images": HERE + batch.images.removeprefix(own)})
        records.freeze(
            store, stage, kept, "batches", batch.key,
            file="manifest.parquet", record_file="batch.json",
        )  # fmt: skip
    return batch


def find_batch(store: Store, name: str) -> Batch | None:
    """Find the latest attempt at a batch; None if it has not started."""
    check_name("batch", name)
    latest, key = None, name
    while (following := Batch.find(store, "batches", key, "batch.json")) is not None:
        if following.key != key:
            file = store.address("batches", key, "batch.json")
            raise StoreError(f"{file} is of batch {following.key}: restore it from a backup")
        latest, key = following, key_of(name, following.attempt + 1)
    return latest


def load_batch(store: Store, name: str, attempt: int | None = None) -> Batch:
    """Load an attempt at a batch, by default the latest; StoreError lists the batches."""
    if attempt is not None and attempt > 1:
        return load_batch_of_key(store, key_of(name, attempt))
    batch = find_batch(store, name)
    if batch is None:
        have = [each.name for each in list_batches(store, on_damage=lambda _: None)]
        raise StoreError(f"no batch {name!r} in {store.url}; {which(name, have)}")
    return load_batch_of_key(store, name) if attempt == 1 else batch


def load_batch_of_key(store: Store, key: str) -> Batch:
    """Load the attempt at a batch with this key."""
    return Batch.read(store, "batches", key, "batch.json")


def attempts_at(store: Store, name: str) -> list[str]:
    """List the keys of all attempts at a batch."""
    keys = store.folders("batches", having="batch.json")
    return [key for key in keys if key.partition("~")[0] == name]


def list_batches(store: Store, on_damage: records.Tell | None = None) -> list[Batch]:
    """List the latest attempt at every batch, oldest first; see `read_readable` for damage."""
    latest: dict[str, Batch] = {}
    keys = store.folders("batches", having="batch.json")
    for batch in records.read_readable(lambda key: load_batch_of_key(store, key), keys, on_damage):
        if batch.name not in latest or latest[batch.name].attempt < batch.attempt:
            latest[batch.name] = batch
    return sorted(latest.values(), key=lambda b: (b.sequence, b.started_at, b.name))


def verify_manifest(store: Store, batch: Batch) -> None:
    """Raise StoreError if the manifest differs from the frozen one."""
    parts = ("batches", batch.key, "manifest.parquet")
    if store.digest(*parts) != batch.manifest_digest:
        raise StoreError(
            f"{store.address(*parts)} is not the manifest that was frozen (sha256 differs): "
            f"restore it from a backup, or start batch {batch.name} again with --force"
        )


def read_manifest(
    store: Store, batch: Batch, shard: Shard | None = None, columns: list[str] | None = None
) -> pa.Table:
    """Read the manifest's rows: all, or one shard's."""
    with _reading(store, batch) as (path, footer):
        with parquet.open_table(store, *path, footer=footer) as file:
            if shard is None:
                return file.read(columns=columns, use_threads=False)
            size = footer.row_group(0).num_rows
            group = file.read_row_group(shard.start // size, columns=columns, use_threads=False)
        return group.slice(shard.start % size, shard.stop - shard.start)


def iterate_manifest(
    store: Store, batch: Batch, columns: list[str] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the manifest's rows in parts, each with the number of its first row."""
    with _reading(store, batch) as (path, footer):
        start = 0
        for part in parquet.iterate_rows(store, *path, columns=columns, footer=footer):
            yield start, part
            start += part.num_rows


@contextmanager
def _reading(store: Store, batch: Batch) -> Iterator[tuple[tuple[str, str, str], pq.FileMetaData]]:
    path = ("batches", batch.key, "manifest.parquet")
    try:
        yield path, _manifest_footer(store, batch.key, batch.manifest_digest)
    except MissingError:
        address = store.address(*path)
        raise StoreError(f"batch {batch.name} has lost its manifest {address}") from None


def find_rows(store: Store, batch: Batch, uris: Sequence[str]) -> pa.Table:
    """Find the manifest's rows with these addresses, in the manifest's order."""
    wanted = pa.array(sorted(set(uris)), pa.string())
    numbers: list[int] = []
    for start, part in iterate_manifest(store, batch, ["uri"]) if len(wanted) else ():
        there = pc.is_in(part["uri"], value_set=wanted)
        numbers += (start + np.flatnonzero(there)).tolist()
    return rows_at(store, batch, numbers)


def rows_at(store: Store, batch: Batch, numbers: Sequence[int]) -> pa.Table:
    """Read rows of the manifest by number, in the given order; each shard is read once."""
    rows = np.asarray(numbers, np.intp)
    if not len(rows):
        return pa.table({"uri": pa.array([], pa.string())})
    tables = [
        read_manifest(store, batch, shard).take(places) for shard, places in batch.by_shard(rows)
    ]
    by_shard = np.argsort(rows // batch.shard_rows, kind="stable")
    return pa.concat_tables(tables).take(np.argsort(by_shard))


@lru_cache(maxsize=4)
def _manifest_footer(store: Store, key: str, digest: str) -> pq.FileMetaData:
    """Read a manifest's footer once a process; once a shard would take quadratic time."""
    return parquet.read_footer(store, "batches", key, "manifest.parquet")
