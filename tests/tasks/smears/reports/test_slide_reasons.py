"""Rows of slides, grouped from image rows: counts, reasons for review."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import binomtest

from storage.smears.schemas.slides import SLIDE_SCHEMA
from tasks.detector.verdict import binomial_p_value
from tasks.reports.image_columns import heads_of, repeated
from tests.support.cell_rows import ABNORMAL, FAILED, NAMES, PARASITIZED, UNCERTAIN, cell
from tests.support.grouped import COUNTING, group

ALPHA = 0.05


def field(kind: str | None = "field", **other: Any) -> dict[str, Any]:
    row = {"source_uri": "f", "slide_id": "s", "patient_id": "p", "kind": kind, "cells": 19}
    row |= {"sharpness": 0.009, "too_dark": 0.0, "too_bright": 0.0, "brightness": 0.7}
    return row | other


DARK, BLURRED = {"brightness": 0.1}, {"sharpness": 0.001}
UNREADABLE = field(None, failure="damaged: cut short")


def summary(
    cells: list[dict[str, Any]], *, fields: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    return group(cells, fields=fields).slides


@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([0.01, 0.05, 0.5]))
def test_p_values_are_scipys(count: int, others: int, level: float) -> None:
    p = binomial_p_value(count, count + others, level)
    if not count + others:
        assert p is None
        return
    assert p is not None
    wanted = binomtest(count, count + others, level, alternative="greater")
    assert_allclose(p, wanted.pvalue, rtol=1e-9)


def test_a_slide_is_counted() -> None:
    (row,) = summary(
        [cell()] * 10
        + [cell(**PARASITIZED)] * 6
        + [cell(**PARASITIZED, **ABNORMAL)] * 2
        + [cell(**UNCERTAIN), cell(**FAILED)]
    )
    assert row["slide_id"] == "s"
    assert row["patient_id"] == "p"
    counts = ("cells", "scored", "red_cells", "parasitized", "abnormal", "uncertain")
    assert [row[name] for name in counts] == [20, 19, 19, 8, 2, 1]
    assert row["failures"] == [("damaged", 1)]
    wanted = binomtest(2, 19, ALPHA, alternative="greater").pvalue
    assert row["abnormal_p_value"] == pytest.approx(wanted)
    assert {name: row[name] for name in NAMES if name != "model"}.items() <= NAMES.items()


@pytest.mark.parametrize(
    ("cells", "fields", "reasons"),
    [
        ([cell()] * 100, None, []),
        ([cell()] * 90 + [cell(**ABNORMAL)] * 10, None, []),  # more than alpha, but not grossly
        ([cell()] * 60 + [cell(**ABNORMAL)] * 40, None, ["abnormal together"]),
        ([cell()] * 15 + [cell(**ABNORMAL)] * 5, None, []),  # grossly, but it may be chance
        ([cell()] * 95 + [cell(**FAILED)] * 5, None, []),
        ([cell()] * 90 + [cell(**FAILED)] * 10, None, ["many failed"]),
        ([cell()] * 4, None, ["few cells"]),
        ([cell()] * 75 + [cell(**UNCERTAIN)] * 25, None, ["many uncertain"]),
        ([cell()] * 50 + [cell(patient="q")] * 50, None, ["several patients"]),
        ([cell(**FAILED)] * 30, None, ["many failed", "few cells"]),
        ([cell(None)] * 50 + [cell(None, "q")] * 50, None, []),  # perhaps of different slides
        ([cell()] * 4992, [field()] * 100, []),
        ([cell()] * 4991, [field()] * 100, ["too few cells for a negative call"]),
        ([cell()] * 50 + [cell(**PARASITIZED)], [field()], []),
        ([cell()] * 5000, [field(), field(**DARK, **BLURRED)],
         ["fields dark", "fields out of focus"]),
        ([cell()] * 5000, [field(), UNREADABLE], ["fields failed"]),
        ([], [field("empty")], ["few cells", "too few cells for a negative call"]),
        ([cell()] * 5000, [field()] * 9 + [field(patient_id="q")], ["several patients"]),
    ],
)  # fmt: skip
def test_a_slide_is_sent_to_a_person_with_the_reasons(
    cells: list[dict[str, Any]], fields: list[dict[str, Any]] | None, reasons: list[str]
) -> None:
    (row,) = summary(cells, fields=fields)
    assert row["review_reasons"] == reasons
    assert row["verdict"] == ("review" if reasons else "accept")


def test_slides_come_by_name_and_last_the_images_that_name_none() -> None:
    found = summary([cell(None, None), cell("b"), cell("a"), cell("", "p"), cell("b")])
    counts = [(row["slide_id"], row["cells"]) for row in found]
    assert counts == [("", 1), ("a", 1), ("b", 2), (None, 1)]
    assert [row["patient_id"] for row in found] == ["p", "p", "p", None]


def test_a_slide_of_failures_knows_no_share_and_is_null_not_nan() -> None:
    (row,) = summary([cell(**FAILED), cell(failure="unreadable: no such file")])
    assert row["failures"] == [("damaged", 1), ("unreadable", 1)]
    unknown = {name for name, value in row.items() if value is None}
    assert {"fields", "fields_read", "exclusions", "abnormal_p_value"} < unknown
    assert "abnormality_median" in unknown
    assert {"red", "green", "blue", "shift", "shifted", "smear_shift", "implausible"} < unknown
    assert {"corrected_percent", "cells_needed"} < unknown
    assert not {"cells", "cells_read", "call", "verdict", "review_reasons"} & unknown


def test_a_shifted_slide_is_for_review_once_and_the_furthest_of_several_patients_counts() -> None:
    cells = [cell("a", "p")] * 10 + [cell("b", "q")] * 10
    shift = {"patient_id": "p", "judged_cells": 10, "shift_p_value": 0.02, "shift_tap": "layer1"}
    found = [
        {"slide_id": "a", "shift": 1.0, "shifted": False} | shift,
        {"slide_id": "a", "shift": 4.0, "shifted": True} | shift,
        {"slide_id": "b", "shift": 0.5, "shifted": False} | shift,
    ]
    a, b = group(cells, shifts=found).slides
    assert (a["shift"], a["shifted"]) == (4.0, True)
    assert (a["verdict"], a["review_reasons"]) == ("review", ["shifted"])
    assert (b["shift"], b["verdict"]) == (0.5, "accept")


@settings(max_examples=10)
@given(st.lists(st.floats(-8, 50), min_size=1, max_size=30))
def test_the_median_is_that_of_the_cells(scores: list[float]) -> None:
    (row,) = summary([cell(abnormality=score) for score in scores])
    assert_allclose(row["abnormality_median"], np.median(scores), rtol=1e-12)


@pytest.mark.parametrize("cells", [[], [cell()], [cell(**FAILED)]])
def test_the_table_has_the_columns_of_the_report(cells: list[dict[str, Any]]) -> None:
    table = group(cells, fields=[] if cells else None).tables["slides"]
    assert table.schema.equals(SLIDE_SCHEMA, check_metadata=False)
    assert table.num_rows == len(cells)


def test_a_slide_has_the_mean_colour_of_its_scored_images() -> None:
    red, violet = {"red": 200, "green": 100, "blue": 100}, {"red": 100, "green": 50, "blue": 200}
    of_a = [cell("a", **each) for each in (red, violet, violet, {}, FAILED)]
    first, second = (
        [row[name] for name in ("red", "green", "blue")] for row in summary([*of_a, cell("b")])
    )
    assert first == pytest.approx([400 / 3, 200 / 3, 500 / 3])
    assert second == [None, None, None]


# --- slides that were cut up here


def test_only_red_cells_count_for_parasitaemia() -> None:
    red, white = {"kind": "red"}, {"kind": "white"}
    (row,) = summary(
        [cell(**red)] * 15
        + [cell(**red, **PARASITIZED)] * 4
        + [cell(**red, **PARASITIZED, **ABNORMAL)]
        + [cell(**white, **PARASITIZED, **ABNORMAL)] * 5
        + [cell(**red, **FAILED)]
        + [cell(kind="tile", **PARASITIZED)]
    )
    counts = ("cells", "scored", "red_cells", "white_cells")
    assert [row[name] for name in counts] == [27, 26, 20, 5]
    assert (row["parasitized"], row["abnormal"]) == (5, 6)


def test_whole_files_beside_cells_of_fields_count_as_red_cells() -> None:
    (row,) = summary([cell(kind=None)] * 3 + [cell(kind="red")] * 2)
    assert (row["red_cells"], row["white_cells"]) == (5, 0)


def test_a_slide_says_which_of_its_fields_were_read_and_why_the_others_were_not() -> None:
    fields = [field(), field(**DARK), field("empty"), field("empty"), UNREADABLE]
    (row,) = summary([cell()] * 10, fields=fields)
    assert (row["fields"], row["fields_read"]) == (5, 2)
    assert row["exclusions"] == [("damaged", 1), ("empty", 2)]


@pytest.mark.parametrize(
    ("tolerated", "beyond", "reasons"),
    [(0.02, 2, []), (0.02, 3, ["fields dark"]), (0.0, 1, ["fields dark"]), (0.1, 10, [])],
)
def test_a_few_of_many_fields_may_be_beyond_a_limit(
    tolerated: float, beyond: int, reasons: list[str]
) -> None:
    fields = [field(**DARK)] * beyond + [field()] * (100 - beyond) + [field("empty")] * 900
    counting = replace(COUNTING, tolerated=tolerated)
    grouped = group([cell()] * 5000, fields=fields, counting=counting)
    assert grouped.slides[0]["review_reasons"] == reasons
    assert sum(row["verdict"] == "review" for row in grouped.fields) == beyond


def test_how_many_cells_are_enough_is_a_parameter() -> None:
    counting = replace(COUNTING, detectable=1.0)
    (row,) = group([cell()] * 300, fields=[field()], counting=counting).slides
    assert (row["review_reasons"], row["verdict"]) == ([], "accept")


def test_fields_of_slides_with_and_without_cells_have_rows() -> None:
    found = summary([cell("a")] * 9, fields=[field(slide_id="b"), field(slide_id=None)])
    counts = [(row["slide_id"], row["cells"], row["fields"]) for row in found]
    assert counts == [("a", 9, None), ("b", 0, 1), (None, 0, 1)]
    assert found[0]["exclusions"] is None


def test_copies_of_an_image_count_once_and_send_their_slide_to_a_person() -> None:
    once = [cell("a", **PARASITIZED), *[cell("a")] * 9, *[cell("b")] * 10]
    copies = [each | {"repeated": True} for each in once[:10]] * 69
    copied, other = summary(once + copies)
    alone, _ = summary(once)
    assert copied["review_reasons"] == ["repeated images"]
    assert other["review_reasons"] == alone["review_reasons"] == []
    counts = ("red_cells", "parasitized", "cells_read", "cells_called")
    assert [copied[name] for name in counts] == [alone[name] for name in counts]
    assert (copied["cells"], alone["cells"]) == (700, 10)


def test_the_first_of_equal_digests_is_no_copy_and_nor_are_images_without() -> None:
    digest = "0123456789abcdef" * 4
    parts = [[digest, None, "f" * 64], [], [None, digest, "e" * 64, digest]]
    found = repeated(heads_of(pa.array(part, pa.string())) for part in parts)
    assert found.tolist() == [False, False, False, False, True, False, True]
    assert repeated([]).tolist() == []
