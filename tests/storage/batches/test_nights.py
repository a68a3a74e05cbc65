from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from storage.batches import nights
from storage.leases import lease
from storage.store import Store, StoreError
from tasks.images.listing import list_images
from tasks.images.manifest import SCHEMA

DAY, WHEN = date(2026, 3, 1), datetime(2026, 3, 1, 2, tzinfo=UTC)


def manifest(*names: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{"uri": f"file:///inbox/{n}.png", "size": 7} for n in names], SCHEMA
    )


def freeze(store: Store, *names: str, day: date = DAY) -> nights.Night:
    return nights.freeze_night(
        store, "night", day, manifest(*names), inbox="/inbox", frozen_at=WHEN
    )


def test_a_night_is_read_back_and_its_list_is_a_source_of_images(store: Store) -> None:
    assert nights.find_night(store, "night", DAY) is None
    night = freeze(store, "a", "b")
    assert nights.find_night(store, "night", DAY) == night
    assert (night.batch, night.images) == ("night-2026-03-01", 2)
    assert nights.read_taken(store, night).to_pylist() == [
        {"uri": "file:///inbox/a.png", "size": 7},
        {"uri": "file:///inbox/b.png", "size": 7},
    ]
    assert list_images(nights.manifest_address(store, night)).equals(manifest("a", "b"))


def test_the_nights_of_a_series_are_listed_by_date_and_its_lease_is_none(store: Store) -> None:
    freeze(store, "b", day=date(2026, 3, 2))
    freeze(store, "a", day=DAY)
    with lease(store, "nights", "night"):
        assert [night.day.day for night in nights.list_nights(store, "night")] == [1, 2]
    assert nights.list_nights(store, "other") == []


def test_images_are_frozen_once_but_an_empty_night_may_get_some(store: Store) -> None:
    freeze(store)
    night = freeze(store, "a")
    with pytest.raises(StoreError, match="frozen"):
        freeze(store, "b")
    assert nights.find_night(store, "night", DAY) == night


def test_a_list_without_its_record_is_no_night(store: Store) -> None:
    """As a run leaves it that was killed between the two writes."""
    night = freeze(store, "a")
    store.remove("nights", "night", "2026-03-01", "night.json")
    assert nights.find_night(store, "night", DAY) is None
    assert nights.list_nights(store, "night") == []
    assert freeze(store, "b").digest != night.digest


def test_a_damaged_list_is_not_used(store: Store) -> None:
    night = freeze(store, "a")
    store.write_bytes(b"other", "nights", "night", "2026-03-01", "manifest.parquet")
    for use in (nights.read_taken, nights.manifest_address):
        with pytest.raises(StoreError, match="not the list that night night-2026-03-01 froze"):
            use(store, night)


@pytest.mark.parametrize("series", ["", "a/b", ".."])
def test_a_series_has_a_name_like_a_batch(series: str) -> None:
    with pytest.raises(StoreError, match="no series name"):
        nights.batch_of(series, DAY)
