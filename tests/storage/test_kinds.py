"""Kinds of files, collected from the rooms that are there."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from storage import kinds, retention
from storage.kinds import all_checks
from storage.records import now
from storage.reports import tables
from storage.reports.sql import QueryError, answer
from storage.store import Store
from tests.support.reports import fill


@pytest.fixture
def without_wing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rooms of a copy of slidewatch whose folder `storage/smears` was removed."""
    core = tuple(room for room in kinds.ROOMS if room != "storage.smears")
    monkeypatch.setattr(kinds, "ROOMS", (*core, "storage.removed"))
    kinds.kinds.cache_clear()
    yield
    kinds.kinds.cache_clear()


def test_names_of_kinds_are_unique() -> None:
    names = [kind.name for kind in kinds.kinds()]
    assert sorted(set(names)) == sorted(names)
    assert {"models", "features", tables.IMAGES, tables.PATIENTS} <= set(names)


@pytest.mark.usefixtures("without_wing")
def test_a_room_that_is_removed_has_no_kinds_and_the_rest_works(store: Store) -> None:
    fill(store)
    assert list(kinds.tables()) == [tables.IMAGES]
    with answer(store, "SELECT count(*) AS n FROM images") as reader:
        assert reader.read_all().to_pylist() == [{"n": 6}]
    with pytest.raises(QueryError, match="patients does not exist"), answer(store, "FROM patients"):
        pass
    checks = list(all_checks(store))
    assert [check.path.split("/")[1] for check in checks] == [tables.IMAGES] * 2
    for check in checks:
        check.verify()
    assert list(retention.expired_reports(store, now().date() + timedelta(days=1))) == []
