"""Run the commands `query` and `schema`: ask the reports in SQL, and list their columns."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from io import StringIO
from itertools import islice
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import psutil
from pydantic_core import to_json
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.monitoring import ending
from flows.monitoring.console import complain, noting
from flows.options.tools import Format, Query, Schema
from flows.outcome import DamageOutcome, Outcome, shown_width
from flows.settings import Settings, UsageError
from storage.kinds import tables
from storage.reports.sql import after, answer, column_types, given_up
from storage.store import Store, refuse_absent, which
from tasks.reports.spreadsheet import csv_lines

SHOWN = 200  # rows of a table in a terminal; a table's widths are those of all its rows
ACROSS = 5  # rows side by side, where there are too many columns for that
NARROWEST = 8  # characters a column
# DuckDB neither counts nor interrupts a single call of a function. Beyond its own limits the system
# refuses memory, and the process ends. Python, Arrow and one value need half as much as DuckDB.
DATA, STACK = 3 * 2**30, 2**23  # bytes: of all, and of each thread
GRACE = 1.0  # seconds for DuckDB to notice by itself that the time is over


class QueryOutcome(DamageOutcome):
    """The answer to a query, which is computed while it is written and never held whole."""

    store: str
    sql: str
    format: Format
    seconds: float

    def _text(self) -> str:
        return "".join(self.pieces(as_json=False))

    def pieces(self, as_json: bool) -> Iterator[str]:
        """Yield the answer piece by piece."""
        self.damaged.clear()
        store = Store(self.store)
        refuse_absent(store)
        with (
            _limited(self.seconds) as spill,
            answer(
                store, self.sql, seconds=self.seconds, on_damage=noting(self.damaged), spill=spill
            ) as reader,
        ):
            names = reader.schema.names
            rows = (row for batch in reader for row in zip(*map(_values, batch), strict=True))
            if as_json:
                yield from _json(names, rows)
            elif self.format == "csv":
                yield from csv_lines(names, rows)
            else:
                yield _table(names, rows)


@contextmanager
def _limited(seconds: float) -> Iterator[str]:
    """Yield a folder; hold this process to its memory, and end it if the block takes too long."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    taken = getattr(psutil.Process().memory_info(), "data", 0)  # Linux alone counts it
    most = taken + DATA + STACK * (os.cpu_count() or 1)
    known = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([most, *known]), hard))
    try:
        with (
            TemporaryDirectory() as spill,
            after(seconds + GRACE, partial(_give_up, seconds, spill)),
        ):
            yield spill
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _give_up(seconds: float, spill: str) -> NoReturn:
    complain(f"slidewatch query: {given_up(seconds)}")
    rmtree(spill, ignore_errors=True)
    ending.end(1)


class SchemaOutcome(Outcome):
    """Every column of every table, with its SQL type, its unit and its meaning."""

    tables: dict[str, list[dict[str, str | None]]]

    def _text(self) -> str:
        blocks = []
        for name, columns in self.tables.items():
            lines = [f"### {name}", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
            lines += [
                f"| `{each['column']}` | {each['type']} | {each['unit'] or ''} "
                f"| {each['meaning']} |"
                for each in columns
            ]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)


def query(options: Query, settings: Settings) -> QueryOutcome:
    """Describe a query, whose answer is read as it is printed."""
    return QueryOutcome(
        store=settings.store, sql=options.sql, format=options.format, seconds=options.seconds
    )


def schema(options: Schema, settings: Settings) -> SchemaOutcome:
    """List columns."""
    known, shown = tables(), {}
    if options.table and options.table not in known:
        raise UsageError(f"no table {options.table!r}; {which(options.table, [*known])}")
    for name in [options.table] if options.table else known:
        fields = known[name].schema(["<class>"], ["<tap>"])
        types = column_types(name, fields)
        shown[name] = [
            {
                "column": field.name,
                "type": types[field.name],
                "unit": field.metadata.get(b"unit", b"").decode() or None,
                "meaning": field.metadata[b"meaning"].decode(),
            }
            for field in fields
        ]
    return SchemaOutcome(tables=shown)


def _values(column: Any) -> list[Any]:
    # DuckDB's sums of whole numbers are wider than 64 bits, and come as decimals.
    return [
        int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value
        for value in column.to_pylist(maps_as_pydicts="lossy")
    ]


def _json(names: list[str], rows: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    yield f'{{"columns": {_json_text(names)}, "rows": ['
    mark = "\n"
    for row in rows:
        values = (float(value) if isinstance(value, Decimal) else value for value in row)
        yield f"{mark}{_json_text(dict(zip(names, values, strict=True)))}"
        mark = ",\n"
    yield "\n]}\n"


def _json_text(value: Any) -> str:
    return to_json(value, inf_nan_mode="null", bytes_mode="hex", fallback=str).decode()


def _table(names: list[str], rows: Iterator[tuple[Any, ...]]) -> str:
    """Draw the rows as a table, one a line, or one a column where there are many columns."""
    width = shown_width()
    head = list(islice(rows, SHOWN + 1))
    shown = head[:SHOWN]
    table = Table(box=box.SIMPLE_HEAD)
    if len(names) * NARROWEST <= width:
        for name, column in zip(names, zip(*shown, strict=True) if shown else names, strict=True):
            numbers = any(isinstance(value, int | float | Decimal) for value in column)
            table.add_column(_cell(name), justify="right" if numbers else "left", overflow="fold")
        for row in shown:
            table.add_row(*map(_cell, row))
    else:
        for name in ("column", *(f"row {number}" for number in range(1, len(shown[:ACROSS]) + 1))):
            table.add_column(name, overflow="fold")
        for name, *values in zip(names, *shown[:ACROSS], strict=True):
            table.add_row(_cell(name), *map(_cell, values))
        shown = shown[:ACROSS]
    out = StringIO()
    Console(file=out, width=width).print(table)
    lines = [line.rstrip() for line in out.getvalue().strip("\n").splitlines()]
    count = f"{len(shown)} row{'s' * (len(shown) != 1)}"
    if len(head) > len(shown):
        count = f"the first {count}; --format csv or --json writes all"
    return "\n".join([*lines, count]) + "\n"


def _cell(value: Any) -> Text:
    """Write a value as text without control characters, so that it cannot steer a terminal."""
    if value is None:
        return Text("")
    text = _number(value) if isinstance(value, float | Decimal) else str(value)
    return Text("".join(sign if sign.isprintable() else " " for sign in text))


def _number(value: float | Decimal) -> str:
    """Write a number to six digits, but none of a whole part less, and very small ones as 1.2e-05.

    >>> _number(1234567.8), _number(0.1234567), _number(Decimal("0.50")), _number(0.0)
    ('1234568', '0.123457', '0.5', '0')
    """
    number = float(value)
    return f"{number:.0f}" if 1e6 <= abs(number) < 1e15 else f"{number:.6g}"
