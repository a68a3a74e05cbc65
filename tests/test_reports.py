from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.reports import image_schema, publish_report, read_rows, report_path, write_rows
from storage.store import Store, digest_of

SCHEMA = image_schema(["Parasitized", "Uninfected"], ["layer1"])
DAYS = (date(2026, 1, 3), date(2026, 1, 4))


def rows(day: date, count: int = 2) -> pa.Table:
    """Rows as a shard makes them: plain text, columns in another order, one too many."""
    values: dict[str, Any] = {
        "note": ["left out"] * count,
        **{field.name: pa.nulls(count, field.type) for field in reversed(list(SCHEMA))},
        "uri": [f"{day}/{row}.png" for row in range(count)],
        "batch_date": [day.isoformat()] * count,
        "diagnosis": ["Uninfected"] * count,
        "scored_at": pa.array([datetime(2026, 1, 3, 8, tzinfo=UTC)] * count),
    }
    return pa.table(values)


def publish(store: Store, day: date, parts: int = 2) -> str:
    return publish_report(
        store, report_path("night", day), SCHEMA, (rows(day) for _ in range(parts))
    )


def test_every_column_says_what_it_means() -> None:
    assert [field.name for field in SCHEMA if not (field.metadata or {}).get(b"meaning")] == []


def test_meanings_and_units_are_in_the_published_file(store: Store) -> None:
    publish(store, DAYS[0])
    schema = pq.read_schema(store.path(*report_path("night", DAYS[0])))
    assert schema.names == SCHEMA.names
    assert [field.metadata[b"meaning"] for field in schema] == [
        field.metadata[b"meaning"] for field in SCHEMA
    ]
    assert schema.field("width").metadata[b"unit"] == b"pixels"


def test_a_report_is_its_parts_in_order_and_says_its_digest(any_store: Store) -> None:
    digest = publish(any_store, DAYS[0], parts=3)
    path = report_path("night", DAYS[0])
    assert digest == digest_of(any_store.read_bytes(*path))
    uris = read_rows(any_store, path, columns=["uri"])["uri"].to_pylist()
    assert uris == rows(DAYS[0])["uri"].to_pylist() * 3


def test_the_same_rows_are_the_same_bytes(store: Store, tmp_path: Path) -> None:
    assert publish(store, DAYS[0]) == publish(Store(str(tmp_path / "other")), DAYS[0])


def test_waiting_rows_come_back(any_store: Store) -> None:
    write_rows(any_store, ("rows", "000000.parquet"), rows(DAYS[0]))
    assert read_rows(any_store, ("rows", "000000.parquet")).equals(rows(DAYS[0]))


def read_by_duckdb(folder: str) -> list[str]:
    found = duckdb.sql(f"SELECT batch_date FROM read_parquet('{folder}/**/*.parquet')")
    return [str(day) for (day,) in found.fetchall()]


READERS = {
    "duckdb": read_by_duckdb,
    "pandas": lambda folder: pd.read_parquet(folder)["batch_date"].astype(str).tolist(),
    "polars": lambda folder: pl.read_parquet(folder)["batch_date"].cast(pl.String).to_list(),
    "pyarrow": lambda folder: pq.read_table(folder)["batch_date"].to_pylist(),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_folder_is_one_table_to_every_reader_even_while_a_report_is_written(
    store: Store, reader: str
) -> None:
    for day in DAYS:
        publish(store, day)
    wanted = [day.isoformat() for day in DAYS for _ in range(4)]

    def parts() -> Iterator[pa.Table]:
        yield rows(DAYS[0], 1)
        assert sorted(READERS[reader](store.path("reports", "images"))) == wanted

    publish_report(store, report_path("night", DAYS[0]), SCHEMA, parts())
    assert sorted(READERS[reader](store.path("reports", "images"))) == wanted[3:]


@pytest.mark.parametrize("damage", ["an error", "a missing column", "a wrong type"])
def test_a_publication_that_fails_leaves_the_old_report_and_no_other_file(
    any_store: Store, damage: str
) -> None:
    publish(any_store, DAYS[0])
    before = {path: any_store.fs.cat_file(path) for path in any_store.fs.find(any_store.root)}

    def parts() -> Iterator[pa.Table]:
        good = rows(DAYS[0])
        yield good
        if damage == "a missing column":
            yield good.drop_columns(["verdict"])
        if damage == "a wrong type":
            width = good.schema.get_field_index("width")
            yield good.set_column(width, "width", pa.array(["wide", "wide"]))
        raise RuntimeError("the shard's rows are gone")

    with pytest.raises((RuntimeError, KeyError, pa.ArrowInvalid)):
        publish_report(any_store, report_path("night", DAYS[0]), SCHEMA, parts())
    after = {path: any_store.fs.cat_file(path) for path in any_store.fs.find(any_store.root)}
    assert after == before
