from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from tasks.images import sorted_rows
from tasks.images.sorted_rows import RowSorter, SortedRows, repeated_rows

SCHEMA = pa.schema([("name", pa.string()), ("place", pa.int64()), ("shape", pa.list_(pa.int8()))])


def some_rows(count: int) -> pa.Table:
    """Rows whose name is one of few, or none."""
    rng = np.random.default_rng(count)
    names = [None if n > 40 else f"n{n}" for n in rng.integers(0, 50, count)]
    columns = {"name": names, "place": np.arange(count), "shape": [[n % 7] for n in range(count)]}
    return pa.table(columns, schema=SCHEMA)


def sort(table: pa.Table, size: int) -> SortedRows:
    sorter = RowSorter(SCHEMA, lambda part: part.select(["name"]))
    for start in range(0, table.num_rows, size):
        sorter.add(table.slice(start, size))
    return sorter.sorted()


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000])
def test_rows_sorted_on_a_disk_are_those_sorted_in_memory(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = some_rows(count)
    known = sort(table, 7).table()
    by = [("name", "ascending"), ("place", "ascending")]
    assert known.equals(table.sort_by(by))
    monkeypatch.setattr(sorted_rows, "MOST", 32)
    monkeypatch.setattr(sorted_rows, "SAMPLED", 4)
    found = sort(table, 7)
    assert found.rows == count
    assert found.table().equals(known)
    assert found.table().equals(known), "read once more"
    assert max((part.num_rows for part in found.parts()), default=0) <= 64
    names = pa.concat_tables([SCHEMA.empty_table().select(["name"]), *found.parts(["name"])])
    assert names.equals(known.select(["name"]))
    for wanted in (0, 1, 10, count, count + 1):
        least = min(wanted, count)
        rows = [i * count // least for i in range(least)]
        assert found.spread(wanted).table().equals(known.take(pa.array(rows, pa.int64())))


def test_rows_are_repeated_after_the_first_of_a_key() -> None:
    keys = np.random.default_rng(0).integers(0, 300, 500).astype(np.uint64)

    def parts() -> Iterator[np.ndarray]:
        return iter(np.split(keys, [3, 3, 200]))

    first = {int(np.flatnonzero(keys == key)[0]) for key in np.unique(keys)}
    assert repeated_rows(parts()).tolist() == sorted(set(range(500)) - first)
    assert repeated_rows([]).tolist() == []
