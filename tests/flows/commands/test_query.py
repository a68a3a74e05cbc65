"""The commands `query` and `schema`, as a person types them."""

import csv
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.commands.query import DATA
from storage.kinds import tables
from storage.store import Store
from tests.support.paths import ROOT
from tests.support.processes import python
from tests.support.reports import fill

Run = Callable[..., tuple[int, str, str]]
# One call of a function, which DuckDB neither interrupts nor counts.
HUGE = "select length(repeat('x', 1000000000) || repeat('y', 1000000000))"
LONG = "select length(regexp_replace(repeat('ab', 100000000), 'a', 'c', 'g')) FROM range(1000)"
LISTED = "select len(range(1000000000))"
GUIDE = ROOT / "storage" / "README.md"


@pytest.fixture
def filled(store: Store) -> Store:
    fill(store)
    return store


@pytest.fixture
def query(filled: Store, run: Run) -> Run:
    """Runs a query on a store with reports."""
    return lambda *words: run("query", *words, "--store", filled.url)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return python("-m", "flows.commands.main", *words, code=None, cwd=ROOT)


def test_an_answer_is_a_table_to_read(query: Run) -> None:
    sql = "SELECT uri, abnormality FROM images WHERE verdict = 'review' ORDER BY uri"
    code, out, err = query(sql)
    assert (code, err) == (0, "")
    assert re.search(r"uri +abnormality", out)
    assert re.search(r"2026-01-03/0.png +2.5\n", out)
    assert out.endswith("2 rows\n")


def test_a_wide_answer_is_turned_on_its_side(query: Run) -> None:
    _, out, _ = query("FROM images")
    assert re.search(r"column +row 1 .*row 5", out)
    assert "the first 5 rows; --format csv or --json writes all" in out
    _, out, _ = query("FROM batches LIMIT 0")
    assert "0 rows" in out


def test_a_long_table_is_cut_and_says_so(query: Run) -> None:
    _, out, _ = query("FROM range(1000)")
    assert "the first 200 rows" in out
    _, out, _ = query("FROM range(1000)", "--format", "csv")
    assert len(out.splitlines()) == 1001


def test_nothing_in_an_answer_steers_the_terminal(query: Run) -> None:
    sql = "SELECT chr(27) || '[2J' || chr(155) || chr(8238) || '[bold]x' || chr(10) || 'y' AS a"
    _, out, _ = query(sql)
    assert "[bold]x y" in out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)


def test_csv_has_no_formulas(query: Run) -> None:
    sql = "SELECT '=1+1' AS text, min(abnormality) AS number, sum(1) AS total FROM images"
    _, out, _ = query(sql, "--format", "csv")
    assert list(csv.reader(out.splitlines())) == [
        ["text", "number", "total"],
        ["'=1+1", "-0.5", "6"],
    ]


def test_json_is_valid_and_typed(query: Run) -> None:
    sql = (
        "SELECT '=x' AS t, sum(1) AS n, 'nan'::DOUBLE AS nan, MAP {'a': 1} AS m, [1, 2] AS l, "
        "-2.5::DECIMAL(5, 2) AS d, max(scored_at) AS at, '\\x00\\xFF'::BLOB AS b FROM images"
    )
    code, out, _ = query(sql, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["columns"] == ["t", "n", "nan", "m", "l", "d", "at", "b"]
    assert found["rows"] == [
        {
            "t": "=x",
            "n": 6,
            "nan": None,
            "m": {"a": 1},
            "l": [1, 2],
            "d": -2.5,
            "at": "2026-01-03T08:00:00Z",
            "b": "00ff",
        }
    ]
    _, out, _ = query("FROM images LIMIT 0", "--json")
    assert json.loads(out)["rows"] == []


@pytest.mark.parametrize("sql", ["SELEC", "COPY images TO 'x.csv'", "FROM '/etc/passwd'"])
def test_wrong_sql_is_one_line(sql: str, query: Run) -> None:
    code, out, err = query(sql)
    assert (code, out) == (1, "")
    assert err.startswith("slidewatch query: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("sql", "seconds", "says"),
    [
        (HUGE, 2, r"given up after 2 seconds|2GiB of memory"),
        (LONG, 1, r"given up after 1 seconds"),
        pytest.param(LISTED, 60, r"2GiB of memory", marks=pytest.mark.slow),
    ],
)
def test_no_statement_passes_the_limits_of_memory_and_time(
    filled: Store, sql: str, seconds: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(filled.url).parent
    monkeypatch.setenv("TMPDIR", str(folder))
    done = command("query", sql, "--store", filled.url, "--seconds", str(seconds))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert re.search(says, done.stderr)
    assert [path.name for path in folder.iterdir()] == ["store"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"a statement of 8 GB was ended at {peak / 2**30:.1f} GiB at most")
    assert peak < DATA + 2**29


def test_the_system_s_limit_of_memory_ends_with_the_query(query: Run) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert query("SELECT 1 AS one")[0] == 0
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_process_leaves_at_once_when_it_has_answered(filled: Store) -> None:
    """Threads that still read reports after a LIMIT kept one in five from its end."""
    done = command("query", "SELECT 1 AS n FROM images LIMIT 1", "--json", "--store", filled.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rows"] == [{"n": 1}]


def test_python_files_in_the_working_folder_are_not_run(filled: Store, tmp_path: Path) -> None:
    for name in ("duckdb.py", "json.py", "pyarrow.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    done = subprocess.run(
        [Path(sys.executable).with_name("slidewatch"), "query", "SELECT 1", "--store", filled.url],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (tmp_path / "ran").exists()


def test_who_reads_only_the_head_of_an_answer_sees_no_error(filled: Store) -> None:
    command = [sys.executable, "-m", "flows.commands.main", "query", "FROM range(10000000)"]
    script = '"$@" --format csv --store "$0"'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{script} | head -n 2", filled.url, *command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "range\n0\n", "")


def test_a_query_reads_a_store_on_s3(s3_bucket: str, tmp_path: Path, run: Run) -> None:
    store = Store(f"{s3_bucket}/{tmp_path.name}/store")
    fill(store)
    code, out, _ = run("query", "SELECT count(*) AS n FROM images", "--json", "--store", store.url)
    assert code == 0
    assert json.loads(out)["rows"] == [{"n": 6}]


def test_schema_takes_a_table(run: Run) -> None:
    _, out, _ = run("schema", "patients", "--json")
    assert list(json.loads(out)["tables"]) == ["patients"]
    code, _, err = run("schema", "patient")
    assert code == 2
    assert "patients" in err


def test_the_readme_has_the_columns_of_images_as_schema_prints_them(run: Run) -> None:
    _, out, _ = run("schema", "images")
    table = out.strip().partition("\n\n")[2]
    assert table in GUIDE.read_text()


def test_every_column_of_every_table_has_a_meaning(run: Run) -> None:
    _, out, _ = run("schema", "--json")
    tables = json.loads(out)["tables"]
    assert all(each["meaning"] and each["type"] for rows in tables.values() for each in rows)


def test_schema_prints_markdown(run: Run) -> None:
    _, out, _ = run("schema")
    assert re.findall(r"^### (\w+)$", out, re.MULTILINE) == list(tables())
    assert "| `width` | INTEGER | pixels | width in its file |" in out
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}


def test_a_damaged_report_is_left_out_and_the_rest_is_answered(filled: Store, query: Run) -> None:
    (day, *_) = filled.names("reports", "images")
    (name, *_) = filled.names("reports", "images", day)
    whole = filled.read_bytes("reports", "images", day, name)
    filled.write_bytes(whole[:100], "reports", "images", day, name)
    sql = "SELECT count(*) AS n FROM images"
    code, out, err = query(sql, "--json")
    assert code == 3
    assert json.loads(out)["rows"][0]["n"] > 0
    assert f"left out: {filled.path('reports', 'images', day, name)}" in err
