"""Keep the ledger of a batch: which shards are complete, and which reports are published.

``ledger/<model>/<shard>.json`` says that a shard's features are complete;
``scores/<screening>/<part>.parquet`` and ``shifts/<screening>/<part>.parquet`` hold the scored rows
of a part and of its slides until the report is published, and ``looks/<screening>/<part>.parquet``
what was found of those of its images that were looked at twice;
``sealed/<screening>.json`` says that it is. All lie in ``batches/<batch>/``. A screening is named
by its detector, and by its site if it has one (`screening_key`).
"""

from contextlib import suppress
from datetime import datetime

from storage.batches.manifests import Batch, Shard
from storage.records import Part, Record, Tell, now, read_readable
from storage.store import AlreadyExistsError, Store


class Failure(Part):
    """The failure of an image: its row, a reason from a fixed list, and the details."""

    row: int
    reason: str
    message: str


class ShardRecord(Record):
    """The record of a shard whose features are complete; ``digest`` is that of its FeatureBlock.

    ``versions`` are those of Python and the libraries that made them; None in records of before
    0.2.
    """

    shard: int
    start: int
    stop: int
    scored: int
    failures: list[Failure]
    tries: int
    digest: str
    versions: dict[str, str] | None = None


class Seal(Record):
    """The record of a batch's published reports: their digests, counts, makers and time.

    Seals of schema version 1 know of no reports on slides and the batch, those of version 2 of none
    on fields, which only batches of a segmentation have. Of those of version 4 it is noted whether
    they were announced, those of version 5 name the site and its version, if any, and those of
    version 6 the report on patients.
    """

    schema_version: int = 6
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
    site: str | None = None
    patients_digest: str | None = None

    @property
    def key(self) -> str:
        """Return the key of the screening that it seals."""
        return screening_key(self.detector, self.site and site_name(self.site))


def site_name(label: str) -> str:
    """Return the site of a version's label.

    >>> site_name("kampala/v0003")
    'kampala'
    """
    return label.partition("/")[0]


def screening_key(detector: str, site: str | None) -> str:
    """Name the screening of a batch by a detector, at a site or at none.

    Neither name can have a plus sign.

    >>> screening_key("m-v0001", None), screening_key("m-v0001", "kampala")
    ('m-v0001', 'm-v0001+kampala')
    """
    return f"{detector}+{site}" if site else detector


def write_shard_record(store: Store, batch: Batch, model: str, record: ShardRecord) -> None:
    """Write a shard's record into the ledger, after its features have been written."""
    record.write(store, "batches", batch.key, "ledger", model, f"{record.shard:06d}.json")


def read_shard_record(store: Store, batch: Batch, model: str, shard: Shard) -> ShardRecord | None:
    """Read the ledger's record of a shard; None where its features are not complete."""
    parts = ("batches", batch.key, "ledger", model, f"{shard.number:06d}.json")
    return ShardRecord.find(store, *parts)


class Quarantine(Record):
    """Rows of a shard or another part of work that killed their worker, each alone."""

    rows: list[int]


def write_quarantine(store: Store, batch: Batch, model: str, shard: Shard, rows: list[int]) -> None:
    """Quarantine rows of a shard, counted from its start, so that no run works on them again."""
    parts = ("batches", batch.key, "quarantine", model, f"{shard.number:06d}.json")
    Quarantine(rows=rows).write(store, *parts)


def read_quarantine(store: Store, batch: Batch, model: str, shard: Shard) -> list[int]:
    """Read the quarantined rows of a shard, counted from its start."""
    parts = ("batches", batch.key, "quarantine", model, f"{shard.number:06d}.json")
    found = Quarantine.find(store, *parts)
    return found.rows if found else []


def complete_shards(store: Store, batch: Batch, model: str) -> set[int]:
    """List the numbers of the shards whose features are complete under a model."""
    names = store.names("batches", batch.key, "ledger", model)
    return {int(name.removesuffix(".json")) for name in names if name.endswith(".json")}


def scores_path(batch: Batch, key: str, part: int) -> tuple[str, ...]:
    """Name the file, relative to the store, in which a part's scored rows wait for publication."""
    return ("batches", batch.key, "scores", key, f"{part:06d}.parquet")


def shifts_path(batch: Batch, key: str, part: int) -> tuple[str, ...]:
    """Name the file with the shifts of a part's slides: it is written last."""
    return ("batches", batch.key, "shifts", key, f"{part:06d}.parquet")


def complete_scores(store: Store, batch: Batch, key: str) -> set[int]:
    """List the parts of a batch that a screening has scored."""
    names = store.names("batches", batch.key, "shifts", key)
    return {int(name.removesuffix(".parquet")) for name in names if name.endswith(".parquet")}


def looks_path(batch: Batch, key: str, part: int) -> tuple[str, ...]:
    """Name the file with what a second look found of some of a part's images."""
    return ("batches", batch.key, "looks", key, f"{part:06d}.parquet")


def complete_looks(store: Store, batch: Batch, key: str) -> set[int]:
    """List the parts of a batch of which a screening has looked at some images twice."""
    names = store.names("batches", batch.key, "looks", key)
    return {int(name.removesuffix(".parquet")) for name in names if name.endswith(".parquet")}


def discard_scores(store: Store, batch: Batch, key: str) -> None:
    """Remove the rows that waited for a report which is published now."""
    # Those that say that a part is complete go first.
    store.remove("batches", batch.key, "shifts", key)
    store.remove("batches", batch.key, "looks", key)
    store.remove("batches", batch.key, "scores", key)
    store.remove("batches", batch.key, "rows", key)  # what 0.1 wrote


class Screening(Record):
    """The time at which a detector first scored a batch, so that a resumed run states the same.

    ``site_version`` is that of the site that it is scored at; None without one.
    """

    scored_at: datetime
    site_version: int | None = None


def screening_start(store: Store, batch: Batch, key: str) -> datetime:
    """Look up when a screening began to score a batch; write now where this is the first call."""
    return _screening(store, batch, key, None).scored_at


def screening_version(store: Store, batch: Batch, key: str, newest: int) -> int:
    """Look up the version of its site that a screening uses; the newest where it begins now.

    So a run that goes on, or that is repeated, uses the version that the first one has used.
    """
    version = _screening(store, batch, key, newest).site_version
    return newest if version is None else version


def _screening(store: Store, batch: Batch, key: str, site_version: int | None) -> Screening:
    parts = ("batches", batch.key, "screenings", f"{key}.json")
    if begun := Screening.find(store, *parts):
        return begun
    with suppress(AlreadyExistsError):
        begun = Screening(scored_at=now(), site_version=site_version)
        begun.write(store, *parts, once=True)
    return Screening.read(store, *parts)


def write_seal(store: Store, batch: Batch, seal: Seal) -> None:
    """Write the seal that declares a batch's reports published."""
    seal.write(store, "batches", batch.key, "sealed", f"{seal.key}.json")


def read_seal(store: Store, batch: Batch, key: str) -> Seal | None:
    """Read the seal of a batch's reports by a screening; None where none are published."""
    parts = ("batches", batch.key, "sealed", f"{key}.json")
    return Seal.find(store, *parts)


class Announced(Record):
    """People and other systems have been told of the report with this digest."""

    report_digest: str


def note_announced(store: Store, batch: Batch, seal: Seal) -> None:
    """Note that a publication was announced."""
    parts = ("batches", batch.key, "announced", f"{seal.key}.json")
    Announced(report_digest=seal.report_digest).write(store, *parts)


def is_announced(store: Store, batch: Batch, seal: Seal) -> bool:
    """Tell whether a publication was announced; of seals of before 0.2 that is taken for granted.

    A run can end between its seal and its announcement. The next one then makes up for it.
    """
    parts = ("batches", batch.key, "announced", f"{seal.key}.json")
    if seal.schema_version < 4:
        return True
    noted = Announced.find(store, *parts)
    return noted is not None and noted.report_digest == seal.report_digest


def list_seals(store: Store, batch: Batch, on_damage: Tell | None = None) -> list[Seal]:
    """List the seals of an attempt at a batch, one a detector, oldest first.

    See `read_readable` for damaged ones.
    """
    names = store.names("batches", batch.key, "sealed")
    seals = read_readable(
        lambda name: read_seal(store, batch, name.removesuffix(".json")), names, on_damage
    )
    return sorted((seal for seal in seals if seal), key=lambda seal: seal.scored_at)
