"""The reports of a night that is finished in pieces are those of the whole night."""

import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.jobs.scoring import plan
from flows.jobs.scoring.night import SlideRows
from flows.jobs.scoring.plan import Part, Span
from flows.smears.jobs.grouped_rows import Grouped, Rules, group_rows
from flows.smears.stages.calling import joined_groups
from flows.smears.stages.pieces import pieces_of
from storage.reports.schemas.shared import schema_of
from storage.reports.tables import FIELDS, PATIENTS, SLIDES
from storage.smears.schemas.fields import MEASURED
from tasks.limits import FieldLimits
from tasks.reports.image_columns import SHIFTS, plain, table_of
from tests.support import grouped
from tests.support.cell_rows import ABNORMAL, FAILED, MADE_BY, PARASITIZED, UNCERTAIN, cell

RULES = Rules(FieldLimits(), grouped.COUNTING, {"tap": (0.0, 1.0)}, MADE_BY)
# Patients and slides as the rows of a batch have them: whole patients follow each other, but some
# slides have several patients, and some cells name a slide, a patient or neither.
ORDINARY = [(f"s{n}", f"p{n // 3}") for n in range(12)]
SHARED = [("s0", "p0"), ("s1", "p0"), ("s2", "p1"), ("s0", "p2"), ("s5", "p3"), ("s6", None)]
NAMELESS = [*ORDINARY[:5], (None, "p7"), ("s9", None), (None, None), (None, None)]
Night = tuple[list[dict[str, Any]], list[Part], list[dict[str, Any]], list[dict[str, Any]]]


def night(names: Sequence[tuple[str | None, str | None]]) -> Night:
    """Cells, parts of whole patients, the fields that cells are cut out of, and shifts."""
    rng, cells, slides = np.random.default_rng(0), list[dict[str, Any]](), []
    fields, shifts = list[dict[str, Any]](), []
    for number, (slide, patient) in enumerate(names):
        start, uri = len(cells), f"{number}.png"
        named = {"slide_id": slide, "patient_id": patient}
        for x in range(int(rng.integers(3, 9))):
            kind = [{}, FAILED, ABNORMAL, UNCERTAIN, PARASITIZED][int(rng.integers(5))]
            drawn = {"log_odds": rng.normal(), "distance_tap": rng.random(), "red": rng.random()}
            place = {"source_uri": uri, "x": 10 * x, "y": 0, "width": 8, "height": 8}
            uri_of_cell = {"uri": f"{uri}#{x}", "kind": "red"}
            cells.append(cell(slide, patient, **(place | uri_of_cell | drawn | kind)))
        box = {"x": 0, "y": 0, "width": 1000, "height": 50, "kind": "field", "cells": 9}
        fields.append(named | {"source_uri": uri} | box)
        slides.append(SlideRows(slide, patient, start, len(cells)))
        shifts.append(named | {"shift": rng.normal(), "shifted": False, "implausible": False})
    parts = []
    for _, group in groupby(slides, key=lambda slide: slide.patient or slide):
        some = tuple(group)
        parts.append(Part(some, (Span(some[0].start, some[-1].stop, None),)))
    # Two empty fields of slides without cells, one of them of a known patient.
    empty = {"source_uri": "empty.png", "kind": "empty"}
    fields.insert(1, {"slide_id": "none", "patient_id": names[-3][1]} | empty)
    fields.append({"slide_id": "none", "patient_id": "nobody"} | empty)
    return cells, parts, fields, shifts


def grouped_rows(
    cells: Sequence[dict[str, Any]], fields: pa.Table | None, shifts: pa.Table
) -> Grouped:
    schema = grouped.image_schema(["Parasitized", "Uninfected"], ["tap"])
    known = pa.schema([each for each in schema if any(each.name in row for row in cells)])
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.parquet"
        pq.write_table(grouped.as_published(table_of(cells, known), ["tap"]), images)
        return group_rows(images, shifts, fields, RULES)


@pytest.mark.parametrize("with_fields", [False, True])
@pytest.mark.parametrize(
    ("names", "expected"), [(ORDINARY, 4), (SHARED, 3), (NAMELESS, 3)], ids=["all", "some", "few"]
)
def test_pieces_make_no_difference(
    names: list[tuple[str | None, str | None]], expected: int, with_fields: bool
) -> None:
    cells, parts, rows, shift_rows = night(names)
    fields = table_of(rows, schema_of(MEASURED)) if with_fields else None
    shifts = table_of(shift_rows, SHIFTS)
    whole = grouped_rows(cells, fields, shifts)
    pieces = pieces_of(parts, fields, 1)
    assert [number for numbers, _ in pieces for number in numbers] == list(range(len(parts)))
    assert with_fields or len(pieces) == expected
    found, slides = [], 0
    for numbers, of_piece in pieces:
        some = [parts[number] for number in numbers]
        start, stop = some[0].slides[0].start, some[-1].slides[-1].stop
        many = sum(len(part.slides) for part in some)
        cut = None if fields is None else fields.take(of_piece)
        found.append(grouped_rows(cells[start:stop], cut, shifts.slice(slides, many)))
        slides += many
    tables, joined = joined_groups(found, [numbers for _, numbers in pieces])
    for kind in (SLIDES, PATIENTS, *([FIELDS] if with_fields else [])):
        assert tables[kind].to_pylist() == plain(whole.tables[kind]).to_pylist()
    assert np.array_equal(joined.clusters, whole.night.clusters)
    assert joined.tap_scores["tap"].tolist() == whole.night.tap_scores["tap"].tolist()
    for name, counted in whole.night.row.items():
        assert joined.row[name] == pytest.approx(counted)


def test_pieces_have_the_rows_that_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "LEAST_PIECES", 1)
    _, parts, _, _ = night(ORDINARY)
    for wanted in (1, 20, 40, 10_000):
        pieces = [numbers for numbers, _ in pieces_of(parts, None, wanted)]
        sizes = [
            parts[each[-1]].slides[-1].stop - parts[each[0]].slides[0].start for each in pieces
        ]
        assert all(size >= wanted for size in sizes[:-1])
    assert [list(numbers) for numbers, _ in pieces_of([], None, 5)] == [[]]


def test_a_small_night_has_two_pieces() -> None:
    parts = [Part((), (Span(start, start + 600, None),)) for start in range(0, 6000, 600)]
    assert [list(numbers) for numbers, _ in pieces_of(parts, None, 16_384)] == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
    ]  # fmt: skip
    few = [Part((), (Span(start, start + 10, None),)) for start in range(0, 50, 10)]
    assert [list(numbers) for numbers, _ in pieces_of(few, None, 16_384)] == [[0, 1, 2, 3, 4]]
