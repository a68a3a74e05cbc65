"""Write CSV that spreadsheets open without harm, and read CSV as spreadsheets save it.

A text cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end would be run as a
formula; it is written with an apostrophe in front, which marks it as text (OWASP, "CSV injection").
So is such a character after a semicolon within a text: in some countries a spreadsheet ends a cell
there, in spite of quotes. A first line ``sep=,`` would help Excel, but every other program reads it
as a row. Numbers are written unchanged.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
# A semicolon, tab or line end within a text, then quotes and blanks, then a formula character.
_WITHIN = re.compile(r"""([;\t\r\n]["\s]*)(?=[=+\-@])""")
_AS_IT_WAS = re.compile(r"""([;\t\r\n]["\s]*)'(?=[=+\-@])""")
# Excel writes semicolons in countries with a decimal comma.
SEPARATORS = ",;\t"


class SpreadsheetError(Exception):
    """A CSV file cannot be read; the message says what to do about it."""


def csv_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    r"""Write a CSV file (RFC 4180, but lines end in a line feed) row by row, its header first.

    >>> list(csv_lines(["uri", "score"], [["=1+1", -0.5], ['a "b", c', None]]))
    ['uri,score\n', "'=1+1,-0.5\n", '"a ""b"", c",\n']
    """
    out = io.StringIO()
    # Python quotes only the line ends it writes, but other programs end a row at any line end.
    writer = csv.writer(out, lineterminator="\r\n")
    for row in itertools.chain([columns], rows):
        writer.writerow([cell(value) for value in row])
        yield out.getvalue().removesuffix("\r\n") + "\n"
        out.seek(0)
        out.truncate()


def cell(value: Any) -> str | int | float | Decimal:
    """Convert a value for a CSV file: to text that is no formula, or a number."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple | dict):
        value = json.dumps(value, default=str, ensure_ascii=False)
    text = _WITHIN.sub(r"\1'", str(value))
    return f"'{text}" if text.startswith(FORMULA) else text


def read_csv(content: bytes) -> tuple[list[str], Iterator[tuple[int, Mapping[str, str]]]]:
    """Read columns, and rows with the number of the line on which each begins.

    Changes that spreadsheets make to a file are undone: a byte order mark, UTF-16, semicolons or
    tabs instead of commas, a first line ``sep=;``, blank lines, blanks around a cell, capitals and
    line ends in the header. So is the apostrophe that `cell` added. SpreadsheetError if the file is
    not text; or, from the iterator, if a row has more cells than the header.
    """
    lines = list(io.StringIO(_text(content), newline=""))
    skipped = 0
    while lines and (not lines[0].strip(f"{SEPARATORS} \r\n") or lines[0].startswith("sep=")):
        lines, skipped = lines[1:], skipped + 1
    if not lines:
        raise SpreadsheetError("it is empty")
    separator = max(SEPARATORS, key=lines[0].count)
    reader = csv.reader(lines, delimiter=separator)
    try:
        columns = [" ".join(name.split()).lower() for name in next(reader)]
    except csv.Error as error:
        raise SpreadsheetError(f"line {skipped + 1}: {error}") from None

    if twice := {name for name in columns if name and columns.count(name) > 1}:
        raise SpreadsheetError(f"it has two columns of one name: {', '.join(sorted(twice))}")

    def rows() -> Iterator[tuple[int, Mapping[str, str]]]:
        line = skipped + reader.line_num + 1
        try:
            for row in reader:
                cells = [_as_it_was(each.strip()) for each in row]
                if any(cells[len(columns) :]):
                    raise SpreadsheetError(
                        f"line {line} has more cells than the header: put cells with "
                        f"{separator!r} in them in quotes"
                    )
                if any(cells):
                    yield line, dict(zip(columns, cells + [""] * len(columns), strict=False))
                line = skipped + reader.line_num + 1
        except csv.Error as error:
            raise SpreadsheetError(f"line {line}: {error}") from None

    return columns, rows()


def _text(content: bytes) -> str:
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise SpreadsheetError("it is not UTF-8 text: save it as 'CSV UTF-8'") from None


def _as_it_was(text: str) -> str:
    text = text[1:] if text[:1] == "'" and text[1:].startswith(FORMULA) else text
    return _AS_IT_WAS.sub(r"\1", text)
