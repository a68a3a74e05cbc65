import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from storage import parquet
from storage.reports.sql import checked_format
from storage.store import AlreadyExistsError, MissingError, Store, StoreError
from tests.support.reports import fill

ROWS = 200
RNG = np.random.default_rng(7)
TABLE = pa.table(
    {
        "uri": [f"file:///night/{row}.png" for row in range(ROWS)],
        "score": RNG.random(ROWS),
        "diagnosis": pa.array(["Parasitized", "Uninfected"] * (ROWS // 2)).dictionary_encode(),
        "abnormal": RNG.random(ROWS) < 0.5,
        "size": pa.array(np.arange(ROWS), mask=RNG.random(ROWS) < 0.1),
        "outline": pa.array([[0.5] * (row % 5) for row in range(ROWS)], pa.list_(pa.float32())),
    }
)
PATH = ("folder", "table.parquet")


def end_of_pages(content: bytes) -> int:
    """Where the footer begins."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_table_comes_back(any_store: Store) -> None:
    parquet.write_table(any_store, TABLE, *PATH, group_rows=80)
    assert parquet.read_table(any_store, *PATH).equals(TABLE)
    assert parquet.read_table(any_store, *PATH, columns=["size"]).equals(TABLE.select(["size"]))
    assert pa.concat_tables(parquet.iterate_groups(any_store, *PATH)).equals(TABLE)
    (last,) = parquet.iterate_groups(any_store, *PATH, groups=[2])
    assert last.equals(TABLE.slice(160))
    footer = parquet.read_footer(any_store, *PATH)
    with parquet.open_table(any_store, *PATH, footer=footer) as file:
        assert file.read_row_group(1).equals(TABLE.slice(80, 80))
    with pytest.raises(AlreadyExistsError):
        parquet.write_table(any_store, TABLE, *PATH, once=True)


def test_groups_that_may_have_a_text_are_found_by_their_statistics(store: Store) -> None:
    names = pa.array(["b", "a", None, None, "c", "e"]).dictionary_encode()
    table = pa.table({"more": np.arange(6), "name": names})
    parquet.write_table(store, table, *PATH, group_rows=2)
    footer = parquet.read_footer(store, *PATH)
    found = {name: parquet.groups_having(footer, "name", [name]) for name in "0abcdf"}
    assert found == {"0": [1], "a": [0, 1], "b": [0, 1], "c": [1, 2], "d": [1, 2], "f": [1]}
    assert parquet.groups_having(footer, "name", "be") == [0, 1, 2]
    assert parquet.groups_having(footer, "name", []) == []


def test_the_rows_of_files_follow_each_other_if_none_differs_from_its_digest(
    any_store: Store,
) -> None:
    files = []
    for number, parts in enumerate(([TABLE.slice(0, 10), TABLE.slice(10, 5)], [], [TABLE])):
        path = ("pieces", f"{number}.parquet")
        digest = parquet.write_parts(any_store, TABLE.schema, parts, *path)
        files.append((path, digest))
    found = list(parquet.iterate_verified(any_store, files))
    assert [part.num_rows for part in found] == [10, 5, ROWS]
    assert pa.concat_tables(found).equals(pa.concat_tables([TABLE.slice(0, 15), TABLE]))

    content = any_store.read_bytes(*files[2][0])
    any_store.write_bytes(flipped(content, 300), *files[2][0])
    verified = parquet.iterate_verified(any_store, files)
    assert [next(verified).num_rows, next(verified).num_rows] == [10, 5]
    with pytest.raises(StoreError, match=r"2\.parquet is not what a worker wrote .* run the same"):
        next(verified)
    any_store.remove(*files[0][0])
    with pytest.raises(MissingError, match=r"0\.parquet does not exist"):
        next(parquet.iterate_verified(any_store, files))


def through_store(store: Store) -> pa.Table:
    return parquet.read_table(store, *PATH)


def through_sql(store: Store) -> pa.Table:
    found = ds.dataset([store.path(*PATH)], format=checked_format(), schema=TABLE.schema)
    with duckdb.connect() as database:
        database.register("images", found)
        return database.sql("from images").to_arrow_table().cast(TABLE.schema)


@pytest.mark.parametrize(("read", "flips"), [(through_store, 300), (through_sql, 60)])
def test_a_flipped_bit_is_noticed_and_never_gives_other_values(
    store: Store, read: Callable[[Store], pa.Table], flips: int
) -> None:
    content = parquet.table_to_bytes(TABLE)
    chosen = random.Random(1)
    noticed = 0
    for _ in range(flips):
        bit = chosen.randrange(end_of_pages(content) * 8)
        store.write_bytes(flipped(content, bit), *PATH)
        try:
            assert read(store).equals(TABLE), f"bit {bit}"
        except (StoreError, duckdb.Error):
            noticed += 1
    # The rest are bits that say nothing, as of statistics that only filters look at.
    assert noticed > 0.9 * flips


def test_the_file_that_is_damaged_is_named_and_what_to_do(any_store: Store) -> None:
    content = parquet.table_to_bytes(TABLE)
    damages = (b"", b"no table", content[:1000], flipped(content, 8 * (end_of_pages(content) // 2)))
    for damaged in damages:
        any_store.write_bytes(damaged, *PATH)
        with pytest.raises(
            StoreError, match=r"table\.parquet is damaged and cannot be read .*restore it from"
        ) as why:
            list(parquet.iterate_groups(any_store, *PATH))
        assert any_store.address(*PATH) in str(why.value)
        assert "\n" not in str(why.value)


def test_a_missing_file_is_named(any_store: Store) -> None:
    for read in (parquet.read_table, parquet.read_footer):
        with pytest.raises(MissingError, match=r"folder/table\.parquet does not exist"):
            read(any_store, *PATH)


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), TimeoutError(), ConnectionResetError("by peer")],
    ids=repr,
)
def test_an_error_of_the_filesystem_is_not_called_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """A report that cannot be read for a moment must not be left out as a damaged one."""

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(Store, "open", refuse)
    with pytest.raises(type(error)):
        parquet.read_table(store, *PATH)


def test_no_turned_bit_of_a_footer_gives_other_columns(store: Store) -> None:
    """What remains is caught by the digest that `verify` compares."""
    fill(store)
    path = ("reports", "images", "batch_date=2026-01-04", "night.parquet")
    content, wanted = store.read_bytes(*path), parquet.checked_schema(store, *path)
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    file, found = Path(store.path(*path)), Counter[str]()
    for bit in range(8 * start, 8 * len(content), 127):
        turned = bytearray(content)
        turned[bit // 8] ^= 1 << bit % 8
        file.write_bytes(turned)
        try:
            schema = parquet.checked_schema(store, *path)
        except StoreError:
            found["refused"] += 1
        else:
            assert schema.names == wanted.names  # by Parquet's own schema, if Arrow's is lost
            found["the same"] += 1
    print(dict(found))
    assert min(found.values()) > 100
