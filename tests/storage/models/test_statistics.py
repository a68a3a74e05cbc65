import numpy as np
import pytest

from storage.models.statistics import (
    latest_statistics,
    list_statistics,
    load_moments,
    load_statistics,
    save_statistics,
)
from storage.store import Store, StoreError
from tests.support.cards import lineage, moments


def save(store: Store, version: int, *batches: str) -> None:
    save_statistics(store, lineage(version, *batches), moments(version))


def test_a_version_comes_back_with_its_moments(store: Store) -> None:
    save(store, 1, "night")
    back = load_statistics(store, "tiny", 1)
    assert back == lineage(1, "night")
    np.testing.assert_array_equal(load_moments(store, back)["taps/tap/n"], [1.0, 1.0])


def test_the_highest_version_is_the_latest_beyond_four_digits(store: Store) -> None:
    assert latest_statistics(store, "tiny") is None
    for version in (2, 9_999, 10_000, 1):
        save(store, version)
    assert [each.version for each in list_statistics(store, "tiny")] == [1, 2, 9_999, 10_000]
    latest = latest_statistics(store, "tiny")
    assert latest is not None
    assert latest.version == 10_000


def test_statistics_of_another_model_do_not_count(store: Store) -> None:
    save(store, 1)
    assert list_statistics(store, "other") == []


def test_a_lineage_knows_what_each_batch_gave() -> None:
    made = lineage(1, "a", "b")
    assert made.contribution("b") == made.contributions[1]
    assert made.contribution("c") is None


def test_a_version_is_never_overwritten(store: Store) -> None:
    save(store, 1, "first")
    with pytest.raises(StoreError, match="v0001 of model tiny were written by another run"):
        save(store, 1, "second")
    assert load_statistics(store, "tiny", 1).contribution("first")


def test_damaged_moments_are_refused(store: Store) -> None:
    save(store, 1)
    store.write_bytes(moments(2), "statistics", "tiny", "v0001", "moments.safetensors")
    with pytest.raises(StoreError, match=r"v0001/moments\.safetensors is not the file"):
        load_moments(store, load_statistics(store, "tiny", 1))


def test_a_missing_version_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match=r"statistics/tiny/v0007/lineage\.json does not exist"):
        load_statistics(store, "tiny", 7)


def test_a_version_that_was_cut_short_does_not_exist(store: Store) -> None:
    store.write_bytes(b"half", "statistics", "tiny", "v0001", "moments.safetensors")
    assert latest_statistics(store, "tiny") is None
    save(store, 1)
    load_moments(store, load_statistics(store, "tiny", 1))
