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


def test_a_version_is_never_overwritten(store: Store) -> None:
    save(store, 1, "first")
    with pytest.raises(StoreError, match="v0001 of model tiny were written by another run"):
        save(store, 1, "second")
    assert load_statistics(store, "tiny", 1).contribution("first")
