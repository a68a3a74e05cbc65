"""Store the ledger of a batch, ``batches/<batch>/``: complete shards and published reports.

``ledger/<model>/<shard>.json`` says that a shard's features are complete. ``scores`` and ``shifts``
of a screening, named by its detector, hold the rows of parts and of their slides, and
``scores/<screening>/finished/`` pieces of the report, until ``sealed/<screening>.json`` says that
the report is published.
"""

from datetime import datetime

from storage.batches.manifests import Batch, Shard
from storage.records import Entry, Record, Tell, now, read_readable
from storage.store import Store


class Failure(Entry):
    """The failure of an image: its row, a reason from a fixed list, and the details."""

    row: int
    reason: str
    message: str


class ShardRecord(Record):
    """The record of a shard with complete features, by their digest, and of the libraries used."""

    shard: int
    start: int
    stop: int
    scored: int
    failures: list[Failure]
    tries: int
    digest: str
    versions: dict[str, str]


class Seal(Record):
    """The record of a published report on images, and the digest of the table of its slides."""

    batch: str
    detector: str
    model: str
    report: str
    report_digest: str
    shifts_digest: str
    rows: int
    scored: int
    failed: int
    diagnoses: dict[str, int]
    abnormal: int
    review: int
    failures: dict[str, int]
    scored_at: datetime


def write_shard_record(store: Store, batch: Batch, model: str, record: ShardRecord) -> None:
    """Write a shard's record into the ledger, after its features have been written."""
    record.write(store, "batches", batch.key, "ledger", model, f"{record.shard:06d}.json")


def read_shard_record(store: Store, batch: Batch, model: str, shard: Shard) -> ShardRecord | None:
    """Read the ledger's record of a shard; None if its features are not complete."""
    name = f"{shard.number:06d}.json"
    return ShardRecord.find(store, "batches", batch.key, "ledger", model, name)


class Quarantine(Record):
    """Rows of a shard or another unit of work, each of which killed its worker."""

    rows: list[int]


def write_quarantine(store: Store, batch: Batch, model: str, shard: Shard, rows: list[int]) -> None:
    """Quarantine rows of a shard, counted from its start; no run processes them again."""
    parts = ("batches", batch.key, "quarantine", model, f"{shard.number:06d}.json")
    Quarantine(rows=rows).write(store, *parts)


def read_quarantine(store: Store, batch: Batch, model: str, shard: Shard) -> list[int]:
    """Read the quarantined rows of a shard, counted from its start."""
    parts = ("batches", batch.key, "quarantine", model, f"{shard.number:06d}.json")
    quarantine = Quarantine.find(store, *parts)
    return quarantine.rows if quarantine else []


def complete_shards(store: Store, batch: Batch, model: str) -> set[int]:
    """List the numbers of the shards whose features are complete under a model."""
    names = store.names("batches", batch.key, "ledger", model)
    return {int(name.removesuffix(".json")) for name in names if name.endswith(".json")}


def scores_path(batch: Batch, key: str, rows: range) -> tuple[str, ...]:
    """Return the file where scored rows of a part wait, named by the part's rows."""
    return ("batches", batch.key, "scores", key, _named(rows))


def shifts_path(batch: Batch, key: str, rows: range) -> tuple[str, ...]:
    """Return the file with the shifts of a part's slides, which is written last."""
    return ("batches", batch.key, "shifts", key, _named(rows))


def slides_path(batch: Batch, key: str) -> tuple[str, ...]:
    """Return the file with the shifts of all slides, which stays with the published report."""
    return ("batches", batch.key, "slides", f"{key}.parquet")


def piece_path(batch: Batch, key: str, rows: range) -> tuple[str, ...]:
    """Return the file with the finished rows of some parts."""
    return ("batches", batch.key, "scores", key, "finished", _named(rows))


def _named(rows: range) -> str:
    return f"{rows.start:09d}-{rows.stop:09d}.parquet"


def complete_scores(store: Store, batch: Batch, key: str) -> set[range]:
    """List the rows of the parts of a batch that a screening has scored."""
    names = store.names("batches", batch.key, "shifts", key)
    parts = (name.removesuffix(".parquet").partition("-") for name in names)
    return {range(int(start), int(stop)) for start, _, stop in parts if stop}


def discard_scores(store: Store, batch: Batch, key: str) -> None:
    """Remove the scored rows of a report that is now published."""
    # The markers of complete parts go first.
    store.remove("batches", batch.key, "shifts", key)
    store.remove("batches", batch.key, "scores", key)


class Screening(Record):
    """The time at which a detector first scored a batch, which resumed runs keep."""

    scored_at: datetime


def screening_start(store: Store, batch: Batch, detector: str) -> datetime:
    """Return the time at which a detector began to score a batch, set by the first call."""
    parts = ("batches", batch.key, "screenings", f"{detector}.json")
    begun = Screening.find(store, *parts) or Screening(scored_at=now()).kept(store, *parts)
    return begun.scored_at


def screened_by(store: Store, batch: Batch, on_damage: Tell | None = None) -> list[str]:
    """List the detectors that have reported on a batch, then those that began to; last first."""
    published = [seal.detector for seal in list_seals(store, batch, on_damage)]
    names = (file.removesuffix(".json") for file in store.names("batches", batch.key, "screenings"))
    begun = sorted((screening_start(store, batch, name), name) for name in names)
    return [*published[::-1], *(name for _, name in begun[::-1])]


def write_seal(store: Store, batch: Batch, seal: Seal) -> None:
    """Write the seal that declares a batch's reports published."""
    seal.write(store, "batches", batch.key, "sealed", f"{seal.detector}.json")


def read_seal(store: Store, batch: Batch, key: str) -> Seal | None:
    """Read the seal of a screening's reports on a batch; None if they are not published."""
    return Seal.find(store, "batches", batch.key, "sealed", f"{key}.json")


class Announced(Record):
    """The note that the report with this digest was announced to people and other systems."""

    report_digest: str


def note_announced(store: Store, batch: Batch, seal: Seal) -> None:
    """Note that a publication was announced."""
    parts = ("batches", batch.key, "announced", f"{seal.detector}.json")
    Announced(report_digest=seal.report_digest).write(store, *parts)


def is_announced(store: Store, batch: Batch, seal: Seal) -> bool:
    """Return whether a publication was announced; a run can end between its seal and that."""
    parts = ("batches", batch.key, "announced", f"{seal.detector}.json")
    noted = Announced.find(store, *parts)
    return noted is not None and noted.report_digest == seal.report_digest


def list_seals(store: Store, batch: Batch, on_damage: Tell | None = None) -> list[Seal]:
    """List the seals of an attempt, oldest first; see `read_readable` for damaged ones."""
    names = store.names("batches", batch.key, "sealed")
    seals = read_readable(
        lambda name: read_seal(store, batch, name.removesuffix(".json")), names, on_damage
    )
    return sorted((seal for seal in seals if seal), key=lambda seal: seal.scored_at)
