"""SQL over the reports of a store, on every filesystem."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.kinds import tables
from storage.reports.sql import QueryError, answer, column_types
from storage.smears.schemas.batches import BATCH_SCHEMA
from storage.store import Store, StoreError
from tests.support.reports import fill


@pytest.fixture
def asked(store: Store) -> Store:
    fill(store)
    return store


def ask(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with answer(store, sql) as reader:
        return [tuple(row.values()) for batch in reader for row in batch.to_pylist()]


def test_all_nights_are_one_table_whose_columns_are_united_by_name(asked: Store) -> None:
    assert ask(
        asked,
        "SELECT batch_date, count(*), max(probability_Parasitized), max(probability_Ring) "
        "FROM images GROUP BY 1 ORDER BY 1",
    ) == [("2026-01-03", 3, 0.5, None), ("2026-01-04", 3, None, 0.5)]
    names = [row[0] for row in ask(asked, "DESCRIBE images")]
    assert len(names) == len(set(names))
    assert {"distance_l1", "distance_l2", "probability_None"} <= set(names)
    assert ask(asked, "SELECT DISTINCT typeof(batch_date) FROM images") == [("VARCHAR",)]
    assert ask(asked, "SELECT (SELECT count(*) FROM slides), count(*) FROM batches") == [(2, 2)]


def test_what_is_asked_of_columns_is_answered_as_of_any_table(asked: Store) -> None:
    counts = {
        "verdict = 'review'": 2,
        "verdict IN ('review', 'accept')": 4,
        "verdict IS NULL": 2,
        "abnormality > 0 AND batch_date >= '2026-01-04'": 1,
        "NOT abnormal": 2,
        "uri LIKE '%-04/%'": 3,
        "scored_at > '2026-01-01'": 6,
    }
    for condition, count in counts.items():
        assert ask(asked, f"SELECT count(*) FROM images WHERE {condition}") == [(count,)], condition


def test_an_empty_store_has_empty_tables(store: Store) -> None:
    for name in tables():
        assert ask(store, f"FROM {name}") == []
    assert "light" in column_types("batches", BATCH_SCHEMA)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("COPY (SELECT 1) TO '{folder}/evil.csv'", "COPY is refused"),
        ("CREATE TABLE t AS SELECT 1", "CREATE is refused"),
        ("DROP VIEW images", "DROP is refused"),
        ("DELETE FROM images", "DELETE is refused"),
        ("ATTACH '{folder}/evil.db'", "ATTACH is refused"),
        ("SET enable_external_access = true", "SET is refused"),
        ("PRAGMA database_list", "PRAGMA is refused"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/evil.csv'", "EXPLAIN is refused"),
        ("SELECT 1; COPY (SELECT 1) TO '{folder}/evil.csv'", "2 statements"),
        ("", "0 statements"),
        ("-- nothing", "0 statements"),
        ("FROM '{folder}/secret.csv'", "nothing but the tables"),
        ("FROM read_csv('{folder}/secret.csv')", "nothing but the tables"),
        ("FROM read_text('{folder}/secret.csv')", "nothing but the tables"),
        ("FROM read_parquet('s3://slidewatch/x.parquet')", ""),
        ("FROM glob('{folder}/*')", "nothing but the tables"),
        ("FROM query('COPY (SELECT 1) TO ''{folder}/evil.csv''')", "Parser Error"),
        ("FROM sqlite_scan('{folder}/secret.csv', 't')", "sqlite_scan"),
        ("IMPORT DATABASE '{folder}'", "is refused"),
        ("SELEC 1", 'Parser Error: syntax error at or near "SELEC"'),
        ("SELECT nothing FROM images", "Binder Error"),
        ("SELECT 1 AS a, 2 AS a", "two columns are called 'a'"),
        ("SELECT uri::INTEGER FROM images", "Conversion Error"),
        ("SELECT if(range = 90000, error('late'), '') FROM range(100000)", "late"),
        ("SELECT error('line one\nline two')", "line one line two"),
    ],
)
def test_a_query_reads_the_tables_and_nothing_else(
    store: Store, tmp_path: Path, sql: str, says: str
) -> None:
    fill(store)
    (tmp_path / "secret.csv").write_text("secret\n1\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(QueryError) as error:
        ask(store, sql.format(folder=tmp_path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_variables_of_python_are_no_tables(store: Store) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(QueryError, match="secret does not exist"):
        ask(store, "FROM secret")
    assert secret.num_rows == 1


def test_a_report_whose_pages_are_damaged_is_named(store: Store) -> None:
    fill(store)
    path = Path(store.path("reports", "images", "batch_date=2026-01-04", "night.parquet"))
    content = bytearray(path.read_bytes())
    header, page, *_ = (found.start() for found in re.finditer(b"2026-01-04/0.png", content))
    assert page - header < 100  # the header states the least value, which nothing reads
    content[page] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        StoreError, match=r"batch_date=2026-01-04/night.parquet is damaged and cannot be read"
    ):
        ask(store, "SELECT uri FROM images")


def test_a_damaged_report_is_raised_or_left_out_and_named(asked: Store) -> None:
    asked.write_bytes(b"PAR1 not", "reports", "images", "batch_date=2026-01-05", "bad.parquet")
    with pytest.raises(StoreError, match=r"batch_date=2026-01-05/bad.parquet is damaged"):
        ask(asked, "FROM images")
    told: list[str] = []
    with answer(asked, "FROM images", on_damage=told.append) as reader:
        assert reader.read_all().num_rows == 6
    assert ["bad.parquet" in text for text in told] == [True]


def test_who_reads_a_part_of_a_long_answer_ends_it(asked: Store) -> None:
    with answer(asked, "FROM range(100_000_000_000)") as reader:
        assert next(iter(reader)).num_rows > 0


def test_a_query_has_a_limit_of_time_and_of_memory(store: Store) -> None:
    endless = "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(10_000_000) b"
    with (
        pytest.raises(QueryError, match=r"given up after 0\.5 seconds: .*--seconds"),
        answer(store, endless, seconds=0.5) as reader,
    ):
        reader.read_all()
    with pytest.raises(QueryError, match="needs more than 2GiB of memory"):
        ask(store, "SELECT string_agg(repeat('x', 100000)) FROM range(40000)")
