"""Rows of fields, grouped from image rows."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.reports.tables import FIELDS as REPORT
from storage.smears.schemas.fields import FIELD_REPORT_SCHEMA
from tests.support.cell_rows import ABNORMAL, FAILED, NAMES, PARASITIZED, cell
from tests.support.grouped import group

PHOTO, SLIDE, BAD = "/photos/a.jpg", "/slides/b.svs", "/photos/bad.jpg"


def field(source: str = PHOTO, x: int = 0, y: int = 0, **other: Any) -> dict[str, Any]:
    row = {
        "source_uri": source,
        "slide_id": "s",
        "patient_id": "p",
        **{"x": x, "y": y, "width": 640, "height": 480, "level": 0, "kind": "field"},
        "sharpness": 0.009,
        **{"too_dark": 0.0, "too_bright": 0.0, "brightness": 0.7, "overlap": 0.03, "packed": 0.0},
        **{"cells": 19, "white_cells": 1, "cells_at_border": 5},
    }
    return row | other


UNREADABLE = field(BAD) | dict.fromkeys(["x", "y", "width", "height", "kind", "sharpness"])
UNREADABLE |= dict.fromkeys(["too_dark", "too_bright", "brightness", "overlap", "packed", "cells"])
UNREADABLE |= {"failure": "damaged: it ends too soon", "white_cells": None, "cells_at_border": None}
GRID = [field(SLIDE, 640 * i, 480 * j) for j in range(3) for i in range(4)]
FIELDS = [field(), *GRID, UNREADABLE]


def found(x: int, y: int, source: str | None = SLIDE, **other: Any) -> dict[str, Any]:
    """An image row of a cell in a field; its box is 40 by 30 pixels."""
    place = {"source_uri": source, "kind": "red", "x": x, "y": y, "width": 40, "height": 30}
    row = cell(**other) | place | {"uri": f"{source}#{x},{y}", "verdict": "accept"} | other
    if "failure" in other:
        row |= {"width": None, "height": None, "verdict": "review"}
    return row


def summary(
    cells: list[dict[str, Any]], *, fields: list[dict[str, Any]] = FIELDS
) -> list[dict[str, Any]]:
    return group(cells, fields=fields).fields


def test_a_photograph_of_two_patients_is_said_by_the_light() -> None:
    other = field("/photos/c.jpg", source_id="ab", patient_id=None, slide_id="q\n")
    for fields, said in (([field(source_id="ab"), other], True), ([field(), other], False)):
        reasons = group([found(1, 1, PHOTO)], fields=fields).batch["reasons"]
        text = r"1 photograph is given for more than one patient, as for 'p' and 'q\n': find out"
        assert any(each.startswith(text) for each in reasons) is said


def test_cells_are_counted_where_the_middle_of_their_box_lies() -> None:
    rows = summary(
        [
            found(619, 0),  # its middle is at 639
            found(620, 0),  # at 640, in the next field
            found(700, 464),  # at 479
            found(700, 465),  # at 480, in the field below
            found(600, 400, PHOTO),
        ]
    )
    counts = {(row["source_uri"], row["x"], row["y"]): row["images"] for row in rows}
    assert {place: n for place, n in counts.items() if n} == {
        (SLIDE, 0, 0): 1,
        (SLIDE, 640, 0): 2,
        (SLIDE, 640, 480): 1,
        (PHOTO, 0, 0): 1,
    }


def test_a_field_says_what_became_of_its_cells() -> None:
    row = summary(
        [
            found(1, 1, PHOTO),
            found(50, 1, PHOTO, **PARASITIZED),
            found(100, 1, PHOTO, **PARASITIZED, **ABNORMAL, verdict="review"),
            found(150, 1, PHOTO, **PARASITIZED, kind="white"),
            found(200, 1, PHOTO, **FAILED),
        ]
    )[0]
    counts = ("images", "scored", "failed", "red_cells")
    assert [row[name] for name in counts] == [5, 4, 1, 3]
    assert (row["parasitized"], row["abnormal"], row["review"]) == (2, 1, 2)
    assert (row["cells"], row["verdict"], row["review_reason"]) == (19, "accept", None)
    assert {name: row[name] for name in NAMES if name != "model"}.items() <= NAMES.items()


def test_a_field_beyond_a_limit_or_unreadable_is_for_review() -> None:
    blurred, empty = field(sharpness=0.001), field(kind="empty", cells=0)
    rows = summary([], fields=[blurred, empty, UNREADABLE])
    found = [(row["verdict"], row["review_reason"]) for row in rows]
    assert found == [("review", "out of focus"), ("accept", None), ("review", "failed")]


def test_a_source_that_failed_may_have_a_row_of_its_own() -> None:
    whole = cell(**FAILED) | {"source_uri": BAD, "uri": BAD, "verdict": "review"}
    row = summary([whole])[-1]
    assert (row["images"], row["failed"]) == (1, 1)


def test_images_that_name_no_source_are_in_no_field() -> None:
    assert not any(row["images"] for row in summary([found(1, 1, None)]))


@pytest.mark.parametrize("source", [SLIDE, "/slides/other.svs"])
def test_a_cell_in_no_field_is_an_error_that_names_it(source: str) -> None:
    with pytest.raises(ValueError, match=f"{source}#9000,0 lies in no field of {source}"):
        summary([found(9000, 0, source)])


def test_cells_that_failed_are_found_by_their_corner() -> None:
    rows = summary([found(1300, 500, **FAILED)])
    assert [(row["x"], row["y"]) for row in rows if row["failed"]] == [(1280, 480)]


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 1400)), max_size=40))
def test_every_cell_is_counted_once(places: list[tuple[int, int]]) -> None:
    assert sum(row["images"] for row in summary([found(x, y) for x, y in places])) == len(places)


@pytest.mark.parametrize("fields", [[], FIELDS])
def test_the_table_has_the_columns_of_the_report(fields: list[dict[str, Any]]) -> None:
    table = group([], fields=fields).tables[REPORT]
    assert table.select(FIELD_REPORT_SCHEMA.names).cast(FIELD_REPORT_SCHEMA).num_rows == len(fields)
