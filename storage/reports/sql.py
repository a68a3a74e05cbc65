"""Answer SQL over the tables of a store: those that kinds of files have (`storage.kinds`).

DuckDB is given Arrow data sets of the store's filesystem and opens no file itself: SQL can neither
write nor read anything but these tables.
"""

import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from storage import kinds
from storage.parquet import checked_schema, read_table
from storage.records import Tell, read_readable
from storage.store import Store, StoreError

SECONDS = 300.0
# A query may run on the machine of the next night, and must leave memory and disk for it.
MEMORY, SPILL = "2GiB", "8GiB"
READING = {duckdb.StatementType.SELECT, duckdb.StatementType.MULTI}  # EXPLAIN ANALYZE may write
BATCH_ROWS = 8192


class QueryError(Exception):
    """A query cannot be answered; one line says why."""


@contextmanager
def answer(
    store: Store, sql: str, *, seconds: float = SECONDS, on_damage: Tell | None = None,
    spill: str | None = None,
) -> Iterator[pa.RecordBatchReader]:  # fmt: skip
    """Answer one SQL query over the tables of a store, as a stream of record batches.

    Columns that only some reports have are null elsewhere. ``seconds`` include reading the answer.
    ``on_damage`` is called for each report left out; without it StoreError is raised. QueryError,
    which the stream may raise too, if the SQL is wrong, reads more than tables, or takes too much.
    What does not fit into memory goes into a folder in ``spill``, by default the system's.
    """
    with tempfile.TemporaryDirectory(dir=spill) as spilled, duckdb.connect() as database:
        tables = kinds.tables()
        for name, table in tables.items():
            rows = table.rows or partial(_rows_of_files, name, table)
            database.register(f"{name}_read" if table.joined else name, rows(store, on_damage))
        for name, table in tables.items():
            if table.joined:
                database.execute(f"CREATE VIEW {name} AS {table.joined}")
        database.execute("SET temp_directory = $1", [spilled])
        database.execute("SET max_temp_directory_size = $1", [SPILL])
        database.execute("SET memory_limit = $1", [MEMORY])
        database.execute("SET autoinstall_known_extensions = false")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        with after(seconds, database.interrupt), _naming_damage(store), _plain_errors(seconds):
            _refuse_writing(database.extract_statements(sql))
            reader = database.sql(sql).to_arrow_reader(BATCH_ROWS)
            names = reader.schema.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise QueryError(f"two columns are called {twice[0]!r}: name one of them with AS")
            yield reader


@contextmanager
def after(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call ``act`` in a thread of its own if the block takes longer than this."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def column_types(name: str, schema: pa.Schema) -> dict[str, str]:
    """Look up the SQL type of every column of a table of this schema."""
    with duckdb.connect() as database:
        database.register(name, schema.empty_table())
        return {column: kind for column, kind, *_ in database.sql(f"DESCRIBE {name}").fetchall()}


def _rows_of_files(name: str, table: kinds.Table, store: Store, on_damage: Tell | None) -> Any:
    files = table.files(store) if table.files else []
    reports = read_readable(lambda file: (file, checked_schema(store, file)), files, on_damage)
    # The newest report decides the order of columns; the code adds those of every table.
    schemas = [schema for _, schema in reversed(reports)]
    known = table.schema([], [])
    try:
        schema = pa.unify_schemas([*schemas, known], promote_options="permissive")
    except pa.ArrowException as error:
        raise StoreError(
            f"the tables of {name} in {store.url} have columns of one name that "
            f"cannot be one column: {error}"
        ) from None
    if not reports:
        return schema.empty_table()
    return ds.dataset(
        [store.path(file) for file, _ in reports],
        schema=schema,
        format=checked_format(),
        # Arrow's threads may read on when Python ends, and must not need it then.
        filesystem=LocalFileSystem() if store.is_local else PyFileSystem(_Pieces(store.fs)),
    )


def checked_format() -> ds.ParquetFileFormat:
    """Make the format of a data set that compares its files' checksums."""
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.ParquetFileFormat(default_fragment_scan_options=options)


class _Pieces(FSSpecHandler):  # type: ignore[misc]
    """A filesystem that fetches only the pieces that a Parquet reader requests."""

    def open_input_file(self, path: str) -> Any:
        # Object stores read megabytes ahead; see `Store.open`.
        exact = {"cache_type": "none"} if self.fs.async_impl else {}
        return pa.PythonFile(self.fs.open(path, "rb", **exact), mode="r")


def _refuse_writing(statements: list[Any]) -> None:
    if len(statements) != 1:
        raise QueryError(f"one query at a time, please: this is {len(statements)} statements")
    if statements[0].type not in READING:
        raise QueryError(
            f"{statements[0].type.name} is refused: a query can only read, so begin with SELECT, "
            "FROM, WITH, DESCRIBE, SUMMARIZE or PIVOT"
        )


@contextmanager
def _naming_damage(store: Store) -> Iterator[None]:
    """Raise StoreError for a damaged report, of which DuckDB names the table, but not the file."""
    try:
        yield
    except QueryError as error:
        if "reading the stream" in str(error):
            for table in kinds.tables().values():
                for file in table.files(store) if table.files else []:
                    read_table(store, file)
        raise


@contextmanager
def _plain_errors(seconds: float) -> Iterator[None]:
    try:
        yield
    except duckdb.PermissionException:
        raise QueryError(
            f"a query can read nothing but the tables {', '.join(kinds.tables())}: no file, no "
            "address"
        ) from None
    except duckdb.InterruptException:
        raise QueryError(given_up(seconds)) from None
    except (duckdb.OutOfMemoryException, MemoryError):
        raise QueryError(
            f"the query needs more than {MEMORY} of memory or {SPILL} of disk: ask for less at once"
        ) from None
    except duckdb.BinderException as error:
        raise QueryError(_without_column(str(error))) from None
    # Arrow raises an OSError if it cannot read a stream.
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise QueryError(_in_one_line(error)) from None


def given_up(seconds: float) -> str:
    """Say that a query took too long."""
    return f"the query was given up after {seconds:g} seconds: ask for less, or give --seconds"


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).partition("\n\nLINE ")[0].split())


def _without_column(message: str) -> str:
    """Name the column that is probably meant where a query names one that is not there."""
    meant = re.search(r'column "(\w+)" not found', message)
    words = {word: name for table in kinds.tables().values() for word, name in table.meant.items()}
    instead = words.get(meant[1].lower()) if meant else None
    line = _in_one_line(Exception(message))
    return f"there is no column {meant[1]!r}: ask for {instead}" if meant and instead else line
