"""Ask DuckDB about ten million rows of reports, fifty nights of them."""

from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from storage.reports.schemas.images import image_schema
from storage.reports.tables import report_path
from storage.store import Store
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.reports import publish_report

NIGHTS, ROWS = (3, 10_000) if QUICK else (50, 200_000)
SHARD_ROWS = 512  # what `flows.settings` has, and so the rows that are published at a time
CELLS_PER_SLIDE = 500
ROUNDS = 3 if QUICK else 5
FIRST = date(2026, 1, 1)
SCHEMA = image_schema(("Parasitized", "Uninfected"), ("blocks.2", "blocks.3"))
QUERIES = {
    "one image": "select * from rows where image_id = $image",
    "a slide of a night": "select * from rows where batch_date = $day and slide_id = $slide",
    "verdicts by night": "select batch_date, verdict, count(*) from rows group by all",
    "the 20 most abnormal": "select uri, abnormality from rows order by abnormality desc limit 20",
}
LIMITS = {"one image": 1.0}  # seconds


def night(number: int, day: date) -> pa.Table:
    """Draw a night's report, sorted by slide: random numbers, and the text that queries name."""
    rng = np.random.default_rng(number)
    slide = np.arange(ROWS) // CELLS_PER_SLIDE
    digests = rng.bytes(32 * ROWS).hex()
    columns = {
        each.name: pa.array(rng.random(ROWS).astype(each.type.to_pandas_dtype()))
        for each in SCHEMA
        if pa.types.is_floating(each.type)
    }
    columns |= {
        "image_id": pa.array([digests[i : i + 64] for i in range(0, len(digests), 64)]),
        "uri": pa.array([f"zip://night/{n}.png::file:///data/{day}.zip" for n in range(ROWS)]),
        "slide_id": pa.array([f"C{number}_{n:06d}" for n in slide]),
        "verdict": pa.array(np.where(rng.random(ROWS) < 0.05, "review", "accept")),
        "batch_date": pa.array([day.isoformat()] * ROWS),
    }
    nulls = {each.name: pa.nulls(ROWS, each.type) for each in SCHEMA}
    made = nulls | columns
    return pa.table([made[each.name].cast(each.type) for each in SCHEMA], schema=SCHEMA)


@pytest.mark.benchmark
def test_asking_ten_million_rows(tmp_path: Path, record: Record) -> None:
    store, middle = Store(str(tmp_path / "store")), NIGHTS // 2
    for number in range(NIGHTS):
        day = FIRST + timedelta(days=number)
        table = night(number, day)
        if number == middle:
            image, slide = (table[name][ROWS // 2].as_py() for name in ("image_id", "slide_id"))
            values = {"image": image, "slide": slide, "day": day.isoformat()}
        parts = (table.slice(start, SHARD_ROWS) for start in range(0, ROWS, SHARD_ROWS))
        publish_report(store, report_path(f"night-{number}", day), SCHEMA, parts)
    files = store.path("reports", "images", "*", "*.parquet")
    rows_of = f"with rows as (from read_parquet('{files}', hive_partitioning = true)) "

    def ask(query: str) -> list[tuple[object, ...]]:
        # A new connection remembers nothing; the files themselves are in the system's cache.
        with duckdb.connect() as connection:
            used = {name: value for name, value in values.items() if f"${name}" in query}
            return connection.execute(rows_of + query, used).fetchall()

    answers = {name: ask(query) for name, query in QUERIES.items()}
    assert len(answers["one image"]) == 1
    assert len(answers["a slide of a night"]) == CELLS_PER_SLIDE
    assert sum(int(str(count)) for *_, count in answers["verdicts by night"]) == NIGHTS * ROWS
    taken = in_turn(
        ROUNDS, {name: lambda query=query: ask(query) for name, query in QUERIES.items()}
    )
    for name, each in taken.items():
        record(f"{NIGHTS} x {ROWS} rows, {name}", "s", ours=each, limit=LIMITS.get(name))
