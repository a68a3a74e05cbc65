"""The ledger of a batch: what has been done with it, and what has been published.

``ledger/<model>/<shard>.json`` says that a shard's features are complete;
``rows/<detector>/<shard>.parquet`` holds a shard's scored rows until the report is published;
``sealed/<detector>.json`` says that it is. All lie in ``batches/<batch>/``.
"""

from contextlib import suppress
from datetime import datetime

from storage.batches.manifests import Batch, Shard
from storage.records import Part, Record, now
from storage.store import AlreadyExistsError, Store


class Failure(Part):
    """Why an image could not be scored: its row, a reason from a fixed list, and the details."""

    row: int
    reason: str
    message: str


class ShardRecord(Record):
    """The features of a shard are complete; ``digest`` is that of its FeatureBlock."""

    shard: int
    start: int
    stop: int
    scored: int
    failures: list[Failure]
    tries: int
    digest: str


class Seal(Record):
    """The reports of a batch are published: what is in that on images, and who made it when.

    Seals of schema version 1 know of no reports on slides and the batch, those of version 2 of none
    on fields, which only batches of a segmentation have.
    """

    schema_version: int = 3
    batch: str
    detector: str
    model: str
    report: str
    report_digest: str
    slides_digest: str | None = None
    batch_digest: str | None = None
    fields_digest: str | None = None
    rows: int
    scored: int
    failed: int
    diagnoses: dict[str, int]
    abnormal: int
    review: int
    failures: dict[str, int]
    scored_at: datetime


def write_shard_record(store: Store, batch: Batch, model: str, record: ShardRecord) -> None:
    """Enter a shard into the ledger; its features must have been written before."""
    record.write(store, "batches", batch.key, "ledger", model, f"{record.shard:06d}.json")


def read_shard_record(store: Store, batch: Batch, model: str, shard: Shard) -> ShardRecord | None:
    """The ledger's entry for a shard, or None where its features are not complete."""
    parts = ("batches", batch.key, "ledger", model, f"{shard.number:06d}.json")
    return ShardRecord.read(store, *parts) if store.exists(*parts) else None


class Quarantine(Record):
    """Rows of a shard or another part of work that killed their worker, each alone."""

    rows: list[int]


def write_quarantine(store: Store, batch: Batch, model: str, shard: Shard, rows: list[int]) -> None:
    """Keep rows of a shard, counted from its start, from being worked on again."""
    parts = ("batches", batch.key, "quarantine", model, f"{shard.number:06d}.json")
    Quarantine(rows=rows).write(store, *parts)


def read_quarantine(store: Store, batch: Batch, model: str, shard: Shard) -> list[int]:
    """Rows of a shard, counted from its start, that must not be worked on."""
    parts = ("batches", batch.key, "quarantine", model, f"{shard.number:06d}.json")
    return Quarantine.read(store, *parts).rows if store.exists(*parts) else []


def complete_shards(store: Store, batch: Batch, model: str) -> set[int]:
    """The numbers of the shards whose features are complete under a model."""
    names = store.names("batches", batch.key, "ledger", model)
    return {int(name.removesuffix(".json")) for name in names if name.endswith(".json")}


def rows_path(batch: Batch, detector: str, shard: Shard) -> tuple[str, ...]:
    """Where a shard's scored rows wait for publication, relative to the store."""
    return ("batches", batch.key, "rows", detector, f"{shard.number:06d}.parquet")


def discard_rows(store: Store, batch: Batch, detector: str) -> None:
    """Remove the rows that waited for a report which is published now."""
    store.remove("batches", batch.key, "rows", detector)


class Screening(Record):
    """When a batch was first scored by a detector, so that a resumed run says the same."""

    scored_at: datetime


def screening_start(store: Store, batch: Batch, detector: str) -> datetime:
    """When the scoring of a batch by a detector began: now, if this is the first call."""
    parts = ("batches", batch.key, "screenings", f"{detector}.json")
    if not store.exists(*parts):
        with suppress(AlreadyExistsError):
            Screening(scored_at=now()).write(store, *parts, once=True)
    return Screening.read(store, *parts).scored_at


def write_seal(store: Store, batch: Batch, seal: Seal) -> None:
    """Declare a report published."""
    seal.write(store, "batches", batch.key, "sealed", f"{seal.detector}.json")


def read_seal(store: Store, batch: Batch, detector: str) -> Seal | None:
    """The seal of a batch's report under a detector, or None where it is not published."""
    parts = ("batches", batch.key, "sealed", f"{detector}.json")
    return Seal.read(store, *parts) if store.exists(*parts) else None


def list_seals(store: Store, batch: Batch) -> list[Seal]:
    """Every publication of an attempt at a batch, oldest first."""
    names = store.names("batches", batch.key, "sealed")
    seals = (read_seal(store, batch, name.removesuffix(".json")) for name in names)
    return sorted((seal for seal in seals if seal), key=lambda seal: seal.scored_at)
