from datetime import timedelta

import pytest

from storage.batches import ledger
from storage.store import Store
from tests.support.batches import freeze, manifest, seal
from tests.support.models import WHEN


def test_discarding_rows_touches_no_other_detector(store: Store) -> None:
    batch = freeze(store, manifest(10))
    for detector in ("one", "two"):
        store.write_bytes(b"", *ledger.scores_path(batch, detector, range(10)))
    ledger.discard_scores(store, batch, "one")
    ledger.discard_scores(store, batch, "one")
    assert not store.exists(*ledger.scores_path(batch, "one", range(10)))
    assert store.exists(*ledger.scores_path(batch, "two", range(10)))


def test_complete_parts_are_listed_by_their_rows(store: Store) -> None:
    batch = freeze(store, manifest(10))
    for rows in (range(4), range(4, 10)):
        store.write_bytes(b"", *ledger.shifts_path(batch, "one", rows))
    # As 0.9 named them: the rows are not known.
    store.write_bytes(b"", "batches", batch.key, "shifts", "one", "000001.parquet")
    assert ledger.complete_scores(store, batch, "one") == {range(4), range(4, 10)}


def test_a_resumed_screening_says_when_it_first_began(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = freeze(store, manifest(10))
    for later in range(3):
        monkeypatch.setattr(
            "storage.batches.ledger.now", lambda later=later: WHEN + timedelta(hours=later)
        )
        assert ledger.screening_start(store, batch, "one") == WHEN
    assert ledger.screening_start(store, batch, "two") == WHEN + timedelta(hours=2)


def test_seals_are_listed_oldest_first(store: Store) -> None:
    batch = freeze(store, manifest(10))
    assert ledger.list_seals(store, batch) == []
    assert ledger.read_seal(store, batch, "a") is None
    newer, older = seal(detector="a", scored_at=WHEN + timedelta(days=1)), seal(detector="b")
    for each in (newer, older):
        ledger.write_seal(store, batch, each)
    assert ledger.list_seals(store, batch) == [older, newer]
    assert ledger.read_seal(store, batch, "a") == newer
