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

from storage.batches.manifests import Batch
from storage.parquet import read_table
from storage.reports import tables
from storage.smears.schemas import batches
from storage.smears.schemas.batches import read_batches_before
from storage.store import Store, StoreError, digest_of
from tasks.images.manifest import with_column
from tests.support.batches import freeze
from tests.support.reports import SCHEMA, publish_report

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
        store, tables.report_path("night", day), SCHEMA, (rows(day) for _ in range(parts))
    )


def test_meanings_and_units_are_in_the_published_file(store: Store) -> None:
    publish(store, DAYS[0])
    schema = pq.read_schema(store.path(*tables.report_path("night", DAYS[0])))
    assert schema.names == SCHEMA.names
    assert [field.metadata[b"meaning"] for field in schema] == [
        field.metadata[b"meaning"] for field in SCHEMA
    ]
    assert schema.field("width").metadata[b"unit"] == b"pixels"


def test_a_report_is_its_parts_in_order_and_says_its_digest(store: Store) -> None:
    digest = publish(store, DAYS[0], parts=3)
    path = tables.report_path("night", DAYS[0])
    assert digest == digest_of(store.read_bytes(*path))
    uris = read_table(store, *path, columns=["uri"])["uri"].to_pylist()
    assert uris == rows(DAYS[0])["uri"].to_pylist() * 3


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

    publish_report(store, tables.report_path("night", DAYS[0]), SCHEMA, parts())
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
        publish_report(any_store, tables.report_path("night", DAYS[0]), SCHEMA, parts())
    after = {path: any_store.fs.cat_file(path) for path in any_store.fs.find(any_store.root)}
    assert after == before


# --- slides and batches


def batch_row(batch: str, day: date) -> pa.Table:
    """A batch's row with something in every kind of column."""
    values = {
        "images": 3,
        "failures": [("damaged", 1), ("unreadable", 2)],
        "p_values": [1, 0, 2],
        "tap_scores": [("layer1", [1, 2])],
        "light": "green",
        "reasons": ["a reason", "another, with a comma"],
        "batch": batch,
        "batch_date": day.isoformat(),
    }
    return pa.Table.from_pylist([values], schema=batches.BATCH_SCHEMA)


def publish_row(store: Store, batch: str, day: date) -> str:
    path = tables.report_path(batch, day, tables.BATCHES)
    return publish_report(store, path, batches.BATCH_SCHEMA, [batch_row(batch, day)])


def test_the_same_rows_are_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    assert publish(store, DAYS[0]) == publish(other, DAYS[0])
    assert publish_row(store, "b", DAYS[0]) == publish_row(other, "b", DAYS[0])


def test_earlier_batches_are_those_of_days_before_the_last_ones_first_left_out(
    store: Store,
) -> None:
    days = [date(2025, 12, 31), date(2026, 1, 1), date(2026, 1, 3), date(2026, 1, 10)]
    assert read_batches_before(store, days[-1], 9).schema == batches.BATCH_SCHEMA
    assert read_batches_before(store, days[-1], 9).num_rows == 0
    for day in days:
        for name in ("a", "b"):
            publish_row(store, f"{name}-{day}", day)

    def found(day: date, limit: int = 9) -> list[str]:
        return [str(b) for b in read_batches_before(store, day, limit)["batch"].to_pylist()]

    assert found(days[0]) == []
    assert found(days[2]) == ["a-2025-12-31", "b-2025-12-31", "a-2026-01-01", "b-2026-01-01"]
    assert found(days[3]) == [f"{name}-{day}" for day in days[:3] for name in ("a", "b")]
    assert found(days[3], limit=3) == ["b-2026-01-01", "a-2026-01-03", "b-2026-01-03"]


def test_a_batch_that_is_published_again_has_one_row(any_store: Store) -> None:
    for _ in range(2):
        publish_row(any_store, "night", DAYS[0])
    assert read_batches_before(any_store, DAYS[1], 9).num_rows == 1


def test_a_row_of_an_earlier_version_has_null_for_what_it_does_not_say(store: Store) -> None:
    row = batch_row("night", DAYS[0]).drop_columns(["files", "files_failed"])
    row = row.append_column("expected_accuracy", pa.array([0.9]))
    publish_report(store, tables.report_path("night", DAYS[0], tables.BATCHES), row.schema, [row])
    (read,) = read_batches_before(store, DAYS[1], 9).to_pylist()
    assert (read["batch"], read["files"]) == ("night", None)


def test_a_bloom_filter_finds_the_row_groups_of_an_image(store: Store) -> None:
    digests = [f"{number:064x}" for number in range(2 * tables.GROUP_ROWS)]
    parts = [
        pa.table({"image_id": digests[start : start + tables.GROUP_ROWS]})
        for start in (0, tables.GROUP_ROWS)
    ]
    path = tables.report_path("night", DAYS[0])
    publish_report(store, path, pa.schema([("image_id", pa.string())]), parts)
    probed = duckdb.execute(
        "SELECT bloom_filter_excludes FROM parquet_bloom_probe($1, 'image_id', $2)",
        [store.path(*path), digests[-1]],
    ).fetchall()
    assert probed == [(True,), (False,)]


# --- attempts


def attempt_at(store: Store, number: int) -> Batch:
    manifest = pa.table({"uri": pa.array([f"{number}.png"], pa.string())})
    return freeze(store, manifest, attempt=number, batch_date=DAYS[0])


def test_a_report_says_which_attempt_it_is_of(store: Store) -> None:
    first = attempt_at(store, 1)
    with pytest.raises(StoreError, match="batch night has no report yet"):
        tables.published_batch(store, "night")
    path = tables.report_path("night", DAYS[0])
    publish_report(store, path, tables.of_attempt(SCHEMA, 1), [])  # a night without images
    assert tables.published_batch(store, "night") == first
    second = attempt_at(store, 2)
    assert tables.published_batch(store, "night") == first
    publish_report(store, path, tables.of_attempt(SCHEMA, 2), [rows(DAYS[0])])
    assert tables.published_batch(store, "night") == second


def test_the_newest_batch_of_a_day_is_the_one_that_was_scored_last(store: Store) -> None:
    for n, batch in enumerate("ba", 1):
        path = tables.report_path(batch, DAYS[0], tables.BATCHES)
        row = with_column(batch_row(batch, DAYS[0]), "scored_at", [datetime.fromtimestamp(n, UTC)])
        publish_report(store, path, batches.BATCH_SCHEMA, [row])
    named = tables.newest_batches(store, lambda _: True)
    assert [row["batch"] for row, _ in named] == ["a", "b"]


def test_a_report_cut_short_is_named_and_left_out_of_what_a_night_is_compared_with(
    store: Store,
) -> None:
    for day in DAYS:
        publish_row(store, "night", day)
    damaged = tables.report_path("night", DAYS[0], tables.BATCHES)
    store.write_bytes(store.read_bytes(*damaged)[:1000], *damaged)
    told: list[str] = []
    assert read_batches_before(store, date(2026, 3, 1), 9, told.append).num_rows == 1
    assert len(list(tables.newest_batches(store, lambda _: True, told.append))) == 1
    assert len(told) == 2
    assert all("/".join(damaged) in text for text in told)
    with pytest.raises(StoreError, match="is damaged"):
        read_batches_before(store, date(2026, 3, 1), 9)
