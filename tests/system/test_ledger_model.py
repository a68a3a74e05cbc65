"""The ledger against a model in memory: whatever is done or spoilt, both say the same.

Runs die at every change of a store in `test_crashes`.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.batches import known_features, ledger, manifests
from storage.batches.features import (
    COLUMNS,
    FAILED,
    ROWS,
    SCORED,
    TAPS,
    FeatureBlock,
    create_features,
    empty_block,
    read_block,
    write_block,
)
from storage.parquet import read_table, write_table
from storage.reports.tables import report_digest, report_path
from storage.store import Store, StoreError
from tasks.images.manifest import SCHEMA
from tests.support.batches import freeze, seal
from tests.support.reports import publish_report

SHARD_ROWS = 3
DAY = date(2026, 1, 3)
REPORT = report_path("night", DAY)
WIDTHS = {"layer1": 2, "layer2": 1}
ARRAYS = (TAPS, *COLUMNS)
ROW = pa.schema([("uri", pa.string()), ("status", pa.string()), ("attempt", pa.int32())])
SPOILT = b"nothing that was ever extracted"

Content = dict[str, bytes]  # what a shard has in each array
Row = tuple[str, str, int]  # a row of a report


def content(block: FeatureBlock) -> Content:
    return {name: values.tobytes() for name, values in block.stored().items()}


def blank(shard: manifests.Shard) -> Content:
    return content(empty_block(shard.stop - shard.start, WIDTHS, 2))


@dataclass
class Attempt:
    """What is known of one attempt at the batch; shards go by their numbers.

    ``features`` is what the arrays hold, empty before they are made; ``records`` what they held
    when the shard was entered into the ledger; ``sealed`` is the report that the seal speaks of.
    """

    uris: list[str]
    features: dict[int, Content] = field(default_factory=dict)
    records: dict[int, Content] = field(default_factory=dict)
    quarantine: dict[int, list[int]] = field(default_factory=dict)
    waiting: dict[int, list[Row]] = field(default_factory=dict)
    sealed: list[Row] | None = None

    def complete(self) -> set[int]:
        return {n for n, recorded in self.records.items() if self.features.get(n) == recorded}

    def failed(self, shard: manifests.Shard) -> set[int]:
        """The rows of a complete shard that failed, counted from its start."""
        status = np.frombuffer(self.records[shard.number]["status"], np.uint8)
        return set(np.flatnonzero(status == FAILED).tolist())


no_features = precondition(lambda self: not self.latest.features)
has_features = precondition(lambda self: self.latest.features)
has_complete = precondition(lambda self: self.latest.complete())
all_rows_wait = precondition(lambda self: len(self.latest.waiting) == len(self.shards()))
a_shard, a_row = st.integers(0, 2), st.integers(0, SHARD_ROWS - 1)
a_length = st.integers(1, 3 * SHARD_ROWS)


class Ledger(RuleBasedStateMachine):
    """One batch, its attempts and its report; only the latest attempt is worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(f"{self.folder.name}/store")
        self.attempts: list[Attempt] = []
        self.published: list[Row] = []

    def teardown(self) -> None:
        self.folder.cleanup()

    @property
    def latest(self) -> Attempt:
        return self.attempts[-1]

    @property
    def batch(self) -> manifests.Batch:
        return manifests.load_batch(self.store, "night")

    def shards(self) -> list[manifests.Shard]:
        return list(self.batch.shards())

    def shard(self, number: int) -> manifests.Shard:
        return self.shards()[number % len(self.shards())]

    # Starting

    def freeze(self, attempt: int, uris: list[str]) -> None:
        table = pa.Table.from_pylist([{"uri": uri} for uri in uris], SCHEMA)
        freeze(self.store, table, shard_rows=SHARD_ROWS, attempt=attempt)

    @initialize(rows=a_length)
    def start(self, rows: int) -> None:
        uris = [f"{len(self.attempts)}/{row}.png" for row in range(rows)]
        self.attempts.append(Attempt(uris))
        self.freeze(len(self.attempts), uris)

    @precondition(lambda self: len(self.attempts) < 3)
    @rule(rows=a_length)
    def force(self, rows: int) -> None:
        """A second start without --force is refused."""
        with pytest.raises(StoreError, match="exists already, and its manifest is frozen"):
            self.freeze(len(self.attempts), ["other.png"])
        self.start(rows)

    # Extracting

    def block_of(self, shard: manifests.Shard) -> FeatureBlock:
        """What is extracted from a shard, always the same; rows in quarantine have no features."""
        rng = np.random.default_rng([len(self.attempts), shard.number])
        block = empty_block(shard.stop - shard.start, WIDTHS, 2)
        for values in block.arrays().values():
            values[:] = rng.integers(1, 100, values.shape)
        block.status[:] = SCORED
        for row in self.latest.quarantine.get(shard.number, []):
            block.status[row] = FAILED
            for values in (*block.taps.values(), block.logits):
                values[row] = np.nan
        return block

    def write(self, shard: manifests.Shard, block: FeatureBlock) -> None:
        write_block(self.store, "tiny", self.batch.key, shard.start, block)

    def enter(self, shard: manifests.Shard, block: FeatureBlock) -> None:
        rows = np.flatnonzero(block.status == FAILED).tolist()
        record = ledger.ShardRecord(
            shard=shard.number, start=shard.start, stop=shard.stop, scored=len(block) - len(rows),
            failures=[
                ledger.Failure(row=row, reason="killed_worker", message="it did") for row in rows
            ],
            tries=1, digest=block.digest(), versions={},
        )  # fmt: skip
        ledger.write_shard_record(self.store, self.batch, "tiny", record)

    def create(self) -> None:
        batch = self.batch
        create_features(
            self.store, "tiny", batch, tap_widths=WIDTHS, classes=["a", "b"], digest="w", decoding=1
        )

    @no_features
    @rule()
    def make_the_features(self) -> None:
        self.create()
        self.latest.features = {shard.number: blank(shard) for shard in self.shards()}

    @has_features
    @rule(number=a_shard)
    def extract(self, number: int) -> None:
        shard = self.shard(number)
        block = self.block_of(shard)
        self.write(shard, block)
        self.enter(shard, block)
        self.latest.features[shard.number] = content(block)
        self.latest.records[shard.number] = content(block)

    @has_features
    @rule(number=a_shard, culprits=st.sets(a_row))
    def quarantine_some(self, number: int, culprits: set[int]) -> None:
        """Rows that are found guilty of a worker's death go into quarantine."""
        shard = self.shard(number)
        rows = sorted(row for row in culprits if row < shard.stop - shard.start)
        ledger.write_quarantine(self.store, self.batch, "tiny", shard, rows)
        self.latest.quarantine[shard.number] = rows

    @rule()
    def resume(self) -> None:
        """Extract what is left and nothing else, then write all rows."""
        self.create()  # which keeps those that are there
        if not self.latest.features:
            self.latest.features = {shard.number: blank(shard) for shard in self.shards()}
        done = self.latest.complete()
        for shard in self.shards():
            if shard.number not in done:
                self.extract(shard.number)
            self.write_the_rows(shard.number)
        assert self.latest.complete() == {shard.number for shard in self.shards()}

    # Behind the ledger's back

    def chunk(self, shard: manifests.Shard, name: str) -> Path:
        group = Path(self.store.path("features", "tiny", f"{self.batch.key}.zarr"))
        wide = empty_block(1, WIDTHS, 2).stored()[name].ndim > 1
        folder = group / name if name == TAPS else group / ROWS / name
        return folder / (f"c.{shard.number}.0" if wide else f"c.{shard.number}")

    @has_features
    @rule(number=a_shard, name=st.sampled_from(ARRAYS))
    def lose_a_chunk(self, number: int, name: str) -> None:
        shard = self.shard(number)
        self.chunk(shard, name).unlink(missing_ok=True)
        self.latest.features[shard.number][name] = blank(shard)[name]

    @has_features
    @rule(number=a_shard, name=st.sampled_from(ARRAYS), share=st.sampled_from([0, 0.4, 1]))
    def spoil_a_chunk(self, number: int, name: str, share: float) -> None:
        """Put other bytes there, as many as there should be or fewer."""
        shard = self.shard(number)
        whole = empty_block(SHARD_ROWS, WIDTHS, 2).stored()[name].nbytes
        self.chunk(shard, name).write_bytes(b"\xa5" * int(share * whole))
        self.latest.features[shard.number][name] = SPOILT

    @has_complete
    @rule()
    def lose_the_features(self) -> None:
        self.store.remove("features", "tiny", f"{self.batch.key}.zarr")
        self.latest.features = {}

    # Publishing

    @has_complete
    @rule(number=a_shard)
    def write_the_rows(self, number: int) -> None:
        shard = self.shard(number)
        if shard.number not in self.latest.complete():
            return
        block = read_block(self.store, "tiny", self.batch.key, shard.start, shard.stop)
        table = manifests.read_manifest(self.store, self.batch, shard, ["uri"])
        status = ["scored" if each == SCORED else "failed" for each in block.status]
        attempts = [len(self.attempts)] * len(block)
        table = table.append_column("status", [status]).append_column("attempt", [attempts])
        write_table(
            self.store, table, *ledger.scores_path(self.batch, "d", range(shard.start, shard.stop))
        )
        failed = self.latest.failed(shard)
        self.latest.waiting[shard.number] = [
            (uri, "failed" if row in failed else "scored", len(self.attempts))
            for row, uri in enumerate(self.latest.uris[shard.start : shard.stop])
        ]

    def parts(self) -> Iterator[pa.Table]:
        for shard in self.shards():
            yield read_table(
                self.store, *ledger.scores_path(self.batch, "d", range(shard.start, shard.stop))
            )

    @all_rows_wait
    @rule(sealed=st.booleans())
    def publish(self, sealed: bool) -> None:
        digest = publish_report(self.store, REPORT, ROW, self.parts())
        self.published = [
            row for number in sorted(self.latest.waiting) for row in self.latest.waiting[number]
        ]
        if not sealed:
            return
        count = Counter(status for _, status, _ in self.published)
        of = {"report": "/".join(REPORT), "report_digest": digest}
        made = seal(len(self.published), count["failed"], **of)
        ledger.write_seal(self.store, self.batch, made)
        self.latest.sealed = self.published
        ledger.discard_scores(self.store, self.batch, "d")
        self.latest.waiting = {}

    # What is true after every step

    def each_attempt(self) -> Iterator[tuple[manifests.Batch, Attempt]]:
        for number, attempt in enumerate(self.attempts, start=1):
            yield manifests.load_batch(self.store, "night", number), attempt

    @invariant()
    def the_latest_attempt_is_found(self) -> None:
        found = manifests.find_batch(self.store, "night")
        assert found is not None
        assert found.attempt == len(self.attempts)
        assert manifests.list_batches(self.store) == [found]

    @invariant()
    def a_frozen_manifest_never_changes(self) -> None:
        for batch, attempt in self.each_attempt():
            manifests.verify_manifest(self.store, batch)
            assert manifests.read_manifest(self.store, batch)["uri"].to_pylist() == attempt.uris

    @invariant()
    def the_ledger_says_what_was_done(self) -> None:
        for batch, attempt in self.each_attempt():
            assert ledger.complete_shards(self.store, batch, "tiny") == set(attempt.records)
            kept = {
                shard.number
                for shard in batch.shards()
                if known_features.verified_block(self.store, "tiny", batch, shard)
            }
            assert kept == attempt.complete()
            for shard in batch.shards():
                rows = ledger.read_quarantine(self.store, batch, "tiny", shard)
                assert rows == attempt.quarantine.get(shard.number, [])

    @invariant()
    def the_report_is_the_last_that_was_published(self) -> None:
        if not self.published:
            assert report_digest(self.store, REPORT) is None
            return
        rows = read_table(self.store, *REPORT).to_pylist()
        assert [tuple(row.values()) for row in rows] == self.published
        published = self.attempts[self.published[0][-1] - 1]
        assert [row["uri"] for row in rows] == published.uris

    @invariant()
    def a_seal_holds_for_the_report_that_it_was_put_on(self) -> None:
        digest = report_digest(self.store, REPORT)
        for batch, attempt in self.each_attempt():
            seal = ledger.read_seal(self.store, batch, "d")
            assert (seal is not None) == (attempt.sealed is not None)
            if seal:
                assert (seal.report_digest == digest) == (attempt.sealed == self.published)

    @invariant()
    def no_staged_file_is_left(self) -> None:
        assert list(Path(self.store.path()).glob(".staged/*")) == []


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=4, stateful_step_count=30)
