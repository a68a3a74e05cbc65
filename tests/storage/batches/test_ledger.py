from datetime import datetime, timedelta

import pytest

from storage.batches.ledger import (
    Failure,
    Seal,
    ShardRecord,
    complete_shards,
    discard_scores,
    list_seals,
    read_seal,
    read_shard_record,
    scores_path,
    screening_start,
    write_seal,
    write_shard_record,
)
from storage.batches.manifests import Shard
from storage.store import Store
from tests.support.batches import freeze, manifest
from tests.support.models import WHEN


def record(shard: Shard, digest: str = "d") -> ShardRecord:
    failure = Failure(row=1, reason="damaged", message="SyntaxError: broken 🩸")
    return ShardRecord(
        shard=shard.number,
        start=shard.start,
        stop=shard.stop,
        scored=shard.stop - shard.start - 1,
        failures=[failure],
        tries=1,
        digest=digest,
        versions={},
    )


def seal(detector: str, scored_at: datetime = WHEN) -> Seal:
    return Seal(
        batch="night", detector=detector, model="tiny", report="r", report_digest="d", rows=10,
        scored=9, failed=1, diagnoses={}, abnormal=0, review=1, failures={"damaged": 1},
        scored_at=scored_at, slides_digest="s", batch_digest="b", patients_digest="p",
    )  # fmt: skip


def test_the_ledger_says_which_shards_are_complete_under_which_model(store: Store) -> None:
    batch = freeze(store, manifest(10))
    first, second, third = batch.shards()
    assert complete_shards(store, batch, "tiny") == set()
    for shard in (third, first):
        write_shard_record(store, batch, "tiny", record(shard))
    assert complete_shards(store, batch, "tiny") == {0, 2}
    assert complete_shards(store, batch, "other") == set()
    assert read_shard_record(store, batch, "tiny", first) == record(first)
    assert read_shard_record(store, batch, "tiny", second) is None


def test_a_shard_entered_twice_keeps_the_later_record(store: Store) -> None:
    batch = freeze(store, manifest(10))
    shard = next(batch.shards())
    write_shard_record(store, batch, "tiny", record(shard))
    write_shard_record(store, batch, "tiny", record(shard, digest="later"))
    assert read_shard_record(store, batch, "tiny", shard) == record(shard, digest="later")


def test_discarding_rows_touches_no_other_detector(store: Store) -> None:
    batch = freeze(store, manifest(10))
    for detector in ("one", "two"):
        store.write_bytes(b"", *scores_path(batch, detector, 0))
    discard_scores(store, batch, "one")
    discard_scores(store, batch, "one")
    assert not store.exists(*scores_path(batch, "one", 0))
    assert store.exists(*scores_path(batch, "two", 0))


def test_a_resumed_screening_says_when_it_first_began(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = freeze(store, manifest(10))
    for later in range(3):
        monkeypatch.setattr(
            "storage.batches.ledger.now", lambda later=later: WHEN + timedelta(hours=later)
        )
        assert screening_start(store, batch, "one") == WHEN
    assert screening_start(store, batch, "two") == WHEN + timedelta(hours=2)


def test_seals_are_listed_oldest_first(store: Store) -> None:
    batch = freeze(store, manifest(10))
    assert list_seals(store, batch) == []
    assert read_seal(store, batch, "a") is None
    newer = seal("a", WHEN + timedelta(days=1))
    for each in (newer, seal("b")):
        write_seal(store, batch, each)
    assert list_seals(store, batch) == [seal("b"), newer]
    assert read_seal(store, batch, "a") == newer
