"""Publishing ten million rows, fifty nights of them, and asking DuckDB about them."""

import statistics
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from storage.reports.schemas.images import image_schema
from storage.reports.schemas.shared import COLOURS
from storage.reports.tables import report_path
from storage.store import Store
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.reports import publish_report

NIGHTS, ROWS = (3, 10_000) if QUICK else (50, 200_000)
SHARD_ROWS = 512  # what `flows.settings` has, and so the rows that are published at a time
CELLS_PER_SLIDE = 500
ROUNDS = 3 if QUICK else 5
FIRST = date(2026, 1, 1)
CLASSES, TAPS = ("Parasitized", "Uninfected"), ("blocks.2", "blocks.3")
SCHEMA = image_schema(CLASSES, TAPS)


def repeated(values: list[str], codes: NDArray[np.int32] | pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(values))


def hexadecimal(digests: bytes) -> pa.Array:
    """The sha256 digests, one after the other, as 64 letters each."""
    n = len(digests) // 32
    offsets = pa.py_buffer(np.arange(n + 1, dtype=np.int32) * 64)
    return pa.StringArray.from_buffers(n, offsets, pa.py_buffer(digests.hex().encode()))


def night(number: int, day: date, rows: int = ROWS) -> pa.Table:
    """Make a night's report as plausible as random numbers make it, sorted by slide.

    Its cells are whole files, so what tells of a region is null, and so is the laboratory.
    """
    rng = np.random.default_rng(number)
    slide = (np.arange(rows) // CELLS_PER_SLIDE).astype(np.int32)
    slides = [f"C{number}P{k}_IMG_{day:%Y%m%d}_{k:06d}" for k in range(slide[-1] + 1)]
    patients = [f"C{number}P{k}" for k in range(slide[-1] // 10 + 1)]
    names = pc.binary_join_element_wise(
        pa.scalar("zip://night/"),
        repeated(slides, slide).dictionary_decode(),
        pa.scalar("_cell_"),
        pa.array(np.arange(rows) % CELLS_PER_SLIDE).cast(pa.string()),
        pa.scalar(f".png::file:///data/{day.isoformat()}.zip"),
        "",
    )
    chance = rng.beta(0.2, 0.2, rows)
    p = rng.random(rows)
    abnormal, uncertain = p <= 0.05, np.maximum(chance, 1 - chance) < 0.8
    reason = pa.array(2 * abnormal + uncertain - 1, pa.int32(), mask=~(abnormal | uncertain))
    taken = datetime(day.year, day.month, day.day)
    same = np.zeros(rows, np.int32)
    columns = {
        "image_id": hexadecimal(rng.bytes(32 * rows)),
        "uri": names,
        "slide_id": repeated(slides, slide),
        "patient_id": repeated(patients, slide // 10),
        "acquired_at": pa.array(np.datetime64(taken, "us") + slide.astype("timedelta64[s]")),
        "width": pa.array(rng.integers(90, 200, rows, np.int32)),
        "height": pa.array(rng.integers(90, 200, rows, np.int32)),
        "status": repeated(["scored"], same),
        "diagnosis": repeated(list(CLASSES), (chance < 0.5).astype(np.int32)),
        "probability_Parasitized": pa.array(chance.astype(np.float32)),
        "probability_Uninfected": pa.array((1 - chance).astype(np.float32)),
        **{f"distance_{tap}": pa.array(rng.chisquare(40, rows)) for tap in TAPS},
        "abnormality": pa.array(rng.standard_normal(rows)),
        "compared_with": repeated(["slide"], same),
        "p_value": pa.array(p),
        "population_p_value": pa.array(rng.random(rows)),
        "q_value": pa.array(np.minimum(1.0, 20 * p)),
        "abnormal": pa.array(abnormal),
        "verdict": repeated(["accept", "review"], (abnormal | uncertain).astype(np.int32)),
        "review_reason": repeated(["uncertain", "abnormal", "abnormal, uncertain"], reason),
        "model": repeated(["lite0"], same),
        "detector": repeated(["lite0-1"], same),
        "batch": repeated([f"night-{number}"], same),
        "batch_date": repeated([day.isoformat()], same),
        "scored_at": pa.array(np.full(rows, np.datetime64(taken, "us")), pa.timestamp("us", "UTC")),
    }
    shades = {name: pa.array(255 * rng.random(rows, np.float32)) for name in COLOURS}
    given = columns | shades
    return pa.table(
        {field.name: given.get(field.name, pa.nulls(rows, field.type)) for field in SCHEMA}
    )


def shards(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, SHARD_ROWS):
        yield table.slice(start, SHARD_ROWS)


QUERIES = {
    "one image": "select * from rows where image_id = $image",
    "a slide of a night": "select * from rows where batch_date = $day and slide_id = $slide",
    "verdicts by night": "select batch_date, verdict, count(*) from rows group by all",
    "the 20 most abnormal": "select uri, abnormality from rows order by abnormality desc limit 20",
}
LIMITS = {"one image": 1.0}


@pytest.mark.benchmark
def test_publishing_and_asking_ten_million_rows(tmp_path: Path, record: Record) -> None:
    store = Store(str(tmp_path / "store"))
    seconds, sizes = [], []
    for number in range(NIGHTS):
        day = FIRST + timedelta(days=number)
        table = night(number, day)
        path = report_path(f"night-{number}", day)
        started = time.perf_counter()
        publish_report(store, path, SCHEMA, shards(table))
        seconds.append(time.perf_counter() - started)
        sizes.append(Path(store.path(*path)).stat().st_size / 2**20)
    rows = f"{NIGHTS} x {ROWS} rows"
    record(f"{rows}, publish a night", "s", ours=seconds)
    record(f"{rows}, a night's report", "MiB", ours=sizes)
    middle = FIRST + timedelta(days=NIGHTS // 2)
    wanted = night(NIGHTS // 2, middle)
    values = {
        "image": wanted["image_id"][ROWS // 2].as_py(),
        "slide": wanted["slide_id"][ROWS // 2].as_py(),
        "day": middle.isoformat(),
    }
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
        record(f"{rows}, {name}", "s", ours=each, limit=LIMITS.get(name))
    assert statistics.median(sizes) < 200
