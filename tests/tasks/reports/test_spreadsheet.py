import csv
import io
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.reports.spreadsheet import FORMULA, SpreadsheetError, csv_lines, read_csv

VALUES = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())


def written(*rows: list[object]) -> str:
    return "".join(csv_lines(["a", "b"], rows))


def rows_of(content: bytes) -> list[tuple[int, dict[str, str]]]:
    columns, rows = read_csv(content)
    assert columns
    return [(line, dict(row)) for line, row in rows]


@pytest.mark.parametrize("sign", FORMULA)
def test_text_that_a_spreadsheet_would_run_is_text(sign: str) -> None:
    text = f"{sign}cmd|' /C calc'!A0"
    (row,) = list(csv.reader(io.StringIO(written([text, 1]), newline="")))[1:]
    assert row[0] == f"'{text}"


def test_numbers_are_left_alone() -> None:
    assert written([-1.5, Decimal("-2.50")]) == "a,b\n-1.5,-2.50\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (True, "true"),
        (b"=\x00", "3d00"),
        (date(2026, 3, 1), "2026-03-01"),
        (datetime(2026, 3, 1, 8, tzinfo=UTC), "2026-03-01T08:00:00+00:00"),
        ({"a": 1}, '"{""a"": 1}"'),
        (["=1"], '"[""=1""]"'),
        ('say "a, b"', '"say ""a, b"""'),
        ("two\nlines", '"two\nlines"'),
    ],
)
def test_any_value_is_one_cell(value: object, text: str) -> None:
    assert written([value, 0]) == f"a,b\n{text},0\n"


def test_the_name_of_a_column_is_no_formula_either() -> None:
    assert list(csv_lines(["=1"], [])) == ["'=1\n"]


@given(st.lists(st.tuples(VALUES, VALUES), max_size=5))
def test_no_cell_of_any_file_is_a_formula_and_none_is_lost(
    rows: list[tuple[object, object]],
) -> None:
    found = list(csv.reader(io.StringIO(written(*map(list, rows)), newline="")))
    assert len(found) == len(rows) + 1
    for cells, values in zip(found[1:], rows, strict=True):
        for cell, value in zip(cells, values, strict=True):
            if isinstance(value, str):
                assert not cell.startswith(FORMULA)
                assert cell.replace("'", "") == value.replace("'", "")


@pytest.mark.parametrize(
    "content",
    [
        b"id,verdict\nx,y z\n",
        b"\xef\xbb\xbfid,verdict\r\nx,y z\r\n",
        b"ID ; Verdict\n x ;y z\n",
        b'id\tverdict\nx\t"y z"\n',
        b"sep=;\nid;verdict\nx;y z\n",
        b"\n\nid,verdict\n\n,\nx,y z\n\n",
        b"id,verdict,,\nx,y z,,\n",
        "id,verdict\nx,y z\n".encode("utf-16"),
        b"id,verdict\rx,y z\r",
        b'id,verdict,"a\nb"\nx,y z,\n',
    ],
)
def test_what_spreadsheets_do_to_a_file_is_undone(content: bytes) -> None:
    ((_, row),) = rows_of(content)
    assert (row["id"], row["verdict"]) == ("x", "y z")


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    content = b'\nid,note\na,"two\nlines"\n\nb,\n'
    assert [(line, row["id"]) for line, row in rows_of(content)] == [(3, "a"), (6, "b")]


def test_the_name_of_a_column_is_one_line() -> None:
    assert read_csv(b'id,"a \r\n b"\n')[0] == ["id", "a b"]


def test_a_short_row_has_empty_cells() -> None:
    assert rows_of(b"id,verdict,note\nx\n")[0][1] == {"id": "x", "verdict": "", "note": ""}


def test_the_apostrophe_that_was_put_in_front_is_taken_away() -> None:
    content = "".join(csv_lines(["note"], [["=1"], ["'quoted'"]])).encode()
    assert [row["note"] for _, row in rows_of(content)] == ["=1", "'quoted'"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n ,\n", "empty"),
        (b"id,note\nx,a,b\n", "line 2 has more cells"),
        (b"id,Note,note \nx,a,b\n", "two columns of one name: note"),
        (b'id,"note\n' + b"x" * 200_000, "line 1: field larger"),
        (b"\xff\xd8\xff\xe0", "not UTF-8"),
        ("id\nMüller\n".encode("latin-1"), "CSV UTF-8"),
    ],
)
def test_what_is_no_csv_says_what_to_do(content: bytes, says: str) -> None:
    with pytest.raises(SpreadsheetError, match=says):
        rows_of(content)


@given(st.lists(st.text(alphabet=st.sampled_from("a;=+-@,'\t\r\n\" ")), min_size=1, max_size=3))
def test_no_cell_is_a_formula_where_semicolons_or_tabs_divide_cells(texts: list[str]) -> None:
    """Excel does so in half of Europe, and takes no notice of quotes within a cell."""
    out = "".join(csv_lines(texts, []))
    for separator in ";\t":
        for row in csv.reader(io.StringIO(out, newline=""), delimiter=separator):
            assert not [each for each in row if each.startswith(("=", "+", "-", "@"))]


def test_a_name_with_a_formula_within_is_read_back_as_it_was() -> None:
    text = "file:///x/a;=HYPERLINK(1);b.png"
    out = written([text, 1])
    assert out.splitlines()[1] == "file:///x/a;'=HYPERLINK(1);b.png,1"
    ((_, row),) = rows_of(out.encode())
    assert row == {"a": text, "b": "1"}
