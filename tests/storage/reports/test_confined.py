"""Queries in a process of their own, whose limits no statement passes."""

import json
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from storage.reports.confined import DATA, QueryError, confined_answer
from storage.store import Store, StoreError
from tests.support.reports import fill

# One call of a function, which DuckDB neither interrupts nor counts.
HUGE = "select length(repeat('x', 1000000000) || repeat('y', 1000000000))"
LONG = "select length(regexp_replace(repeat('ab', 100000000), 'a', 'c', 'g'))"


@pytest.fixture(autouse=True)
def filled(store: Store) -> None:
    fill(store)


def ask(store: Store, sql: str, seconds: float = 60) -> list[tuple[Any, ...]]:
    with confined_answer(store, sql, seconds=seconds) as reader:
        return [tuple(row.values()) for batch in reader for row in batch.to_pylist()]


def test_an_answer_is_that_of_the_tables(store: Store) -> None:
    sql = "SELECT uri, max(abnormality) AS m, [1, 2] AS l FROM images GROUP BY 1 ORDER BY 1"
    rows = ask(store, sql)
    assert len(rows) == 6
    assert rows[0] == ("2026-01-03/0.png", 2.5, [1, 2])
    assert ask(store, "FROM images LIMIT 0") == []


def test_no_statement_passes_the_limits_of_memory_and_time(store: Store) -> None:
    with pytest.raises(QueryError, match=r"given up after 2 seconds|2GiB of memory"):
        ask(store, HUGE, seconds=2)
    with pytest.raises(QueryError, match="given up after 1 seconds"):
        ask(store, f"{LONG} FROM range(1000)", seconds=1)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"a statement of 8 GB was ended at {peak / 2**30:.1f} GiB at most")
    assert peak < DATA + 2**29


def test_nothing_is_left_of_a_statement_that_was_ended(store: Store) -> None:
    with pytest.raises(QueryError):
        ask(store, f"{LONG} FROM range(1000)", seconds=0.2)
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it ends as it is asked
            assert "confined" not in " ".join(child.cmdline())


def test_who_reads_a_part_of_a_long_answer_ends_it(store: Store) -> None:
    with confined_answer(store, "FROM range(100_000_000_000)") as reader:
        assert next(iter(reader)).num_rows > 0


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT 1 AS a, 2 AS a", "two columns are called 'a'"),
        ("SELECT if(range = 90000, error('late'), '') FROM range(100000)", "late"),
    ],
)
def test_an_error_is_that_of_the_query(store: Store, sql: str, says: str) -> None:
    with pytest.raises(QueryError, match=says):
        ask(store, sql)


def test_damage_is_told_or_raised(store: Store) -> None:
    store.write_bytes(b"PAR1 not", "reports", "images", "batch_date=2026-01-05", "bad.parquet")
    with pytest.raises(StoreError, match=r"batch_date=2026-01-05/bad.parquet is damaged"):
        ask(store, "FROM images")
    told: list[str] = []
    with confined_answer(store, "FROM images", on_damage=told.append) as reader:
        assert reader.read_all().num_rows == 6
    assert ["bad.parquet" in text for text in told] == [True]


def test_python_files_in_the_working_folder_are_not_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("duckdb.py", "json.py", "pyarrow.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    assert ask(store, "SELECT 1 AS one") == [(1,)]
    assert not (tmp_path / "ran").exists()


def test_the_process_leaves_at_once_when_it_has_answered(store: Store) -> None:
    """Threads that still read reports after a LIMIT kept one in five from its end."""
    code = (
        "import atexit, sys; from storage.reports import confined\n"
        "atexit.register(print, 'lingers', file=sys.stderr); confined._main()"
    )
    asked = {"store": store.url, "sql": "FROM images LIMIT 1", "seconds": 60, "raises": True}
    question = json.dumps(asked).encode()
    done = subprocess.run([sys.executable, "-c", code], input=question, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert pa.ipc.open_stream(done.stdout).read_all().num_rows == 1
