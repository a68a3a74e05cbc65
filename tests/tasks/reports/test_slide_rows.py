from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import binomtest

from storage.reports.schemas.slides import slide_schema
from tasks.counting.call import Answers
from tasks.reports.image_columns import REPEATED, repeats
from tasks.reports.parasitaemia import binomial_p_value, wilson_interval
from tasks.reports.parasite_counts import LOG_ODDS, Counting, CountTally
from tasks.reports.slide_reasons import SHIFTS
from tasks.reports.slide_rows import SlideTally
from tests.support.cell_rows import (
    ABNORMAL,
    FAILED,
    KINDS,
    MADE_BY,
    NAMES,
    PARASITIZED,
    UNCERTAIN,
    cell,
)

ALPHA = 0.05
FIELD_KINDS = pa.schema(
    [
        *((name, pa.string()) for name in ("slide_id", "patient_id", "kind", "failure")),
        ("review_reason", pa.string()),
        ("cells_at_border", pa.int64()),
    ]
)


def field(kind: str | None = "field", **other: Any) -> dict[str, Any]:
    row = {"slide_id": "s", "patient_id": "p", "kind": kind, "cells_at_border": 2}
    return row | other


UNREADABLE = field(None, failure="damaged: cut short", review_reason="failed", cells_at_border=None)


COUNTING = Counting(Answers(None, 0.01), 5e6)


def with_log_odds(table: pa.Table) -> pa.Table:
    return table.append_column(LOG_ODDS, pa.nulls(len(table), pa.float64()))


def rows(cells: list[dict[str, Any]]) -> pa.Table:
    kinds = KINDS | ({"kind": pa.string()} if any("kind" in each for each in cells) else {})
    return pa.Table.from_pylist(cells, schema=pa.schema(list(kinds.items())))


def summary(
    *parts: list[dict[str, Any]], fields: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    tally = SlideTally(ALPHA)
    for part in parts:
        tally.count(rows(part))
    if fields is not None:
        tally.count_fields(pa.Table.from_pylist(fields, schema=FIELD_KINDS))
    found: list[dict[str, Any]] = tally.table(MADE_BY).to_pylist()
    return found


@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([0.01, 0.05, 0.5]))
def test_intervals_and_p_values_are_scipys(count: int, others: int, level: float) -> None:
    k, n = np.array([count]), np.array([count + others])
    low, high = wilson_interval(k, n)
    p = binomial_p_value(k, n, level)
    if not n[0]:
        assert np.isnan([low[0], high[0], p[0]]).all()
        return
    wanted = binomtest(count, count + others, level, alternative="greater")
    assert_allclose(p[0], wanted.pvalue, rtol=1e-9)
    both = binomtest(count, count + others).proportion_ci(method="wilson")
    assert_allclose([low[0], high[0]], both, atol=1e-12)
    assert 0 <= low[0] <= high[0] <= 1


def test_a_slide_is_counted() -> None:
    (row,) = summary(
        [cell()] * 10 + [cell(**PARASITIZED)] * 6,
        [cell(**PARASITIZED, **ABNORMAL)] * 2 + [cell(**UNCERTAIN)] + [cell(**FAILED)],
    )
    assert row["slide_id"] == "s"
    assert row["patient_id"] == "p"
    counts = ("cells", "scored", "failed", "parasitized", "abnormal", "uncertain")
    assert [row[name] for name in counts] == [20, 19, 1, 8, 2, 1]
    assert row["failures"] == [("damaged", 1)]
    assert row["parasitaemia_percent"] == pytest.approx(100 * 8 / 19)
    assert row["parasitaemia_low"] < row["parasitaemia_percent"] < row["parasitaemia_high"]
    assert row["parasitaemia_ordinary_percent"] == pytest.approx(100 * 6 / 17)
    assert row["abnormal_fraction"] == pytest.approx(2 / 19)
    wanted = binomtest(2, 19, ALPHA, alternative="greater").pvalue
    assert row["abnormal_p_value"] == pytest.approx(wanted)
    assert {name: row[name] for name in NAMES} == NAMES


@pytest.mark.parametrize(
    ("cells", "reasons"),
    [
        ([cell()] * 100, []),
        ([cell()] * 90 + [cell(**ABNORMAL)] * 10, []),  # more than alpha, but not grossly
        ([cell()] * 60 + [cell(**ABNORMAL)] * 40, ["abnormal together"]),
        ([cell()] * 15 + [cell(**ABNORMAL)] * 5, []),  # grossly, but it may be chance
        ([cell()] * 95 + [cell(**FAILED)] * 5, []),
        ([cell()] * 90 + [cell(**FAILED)] * 10, ["many failed"]),
        ([cell()] * 4, ["few cells"]),
        ([cell()] * 75 + [cell(**UNCERTAIN)] * 25, ["many uncertain"]),
        ([cell()] * 50 + [cell(patient="q")] * 50, ["several patients"]),
        ([cell(**FAILED)] * 30, ["many failed", "few cells"]),
        ([cell(None)] * 50 + [cell(None, "q")] * 50, []),  # of different slides, for all we know
    ],
)
def test_a_slide_is_sent_to_a_person_with_the_reasons(
    cells: list[dict[str, Any]], reasons: list[str]
) -> None:
    (row,) = summary(cells)
    assert row["review_reasons"] == reasons
    assert row["verdict"] == ("review" if reasons else "accept")


def test_slides_come_by_name_and_last_the_images_that_name_none() -> None:
    found = summary([cell(None, None), cell("b"), cell("a"), cell("", "p"), cell("b")])
    assert [(row["slide_id"], row["cells"]) for row in found] == [
        ("", 1),
        ("a", 1),
        ("b", 2),
        (None, 1),
    ]
    assert [row["patient_id"] for row in found] == ["p", "p", "p", None]


def test_a_slide_of_failures_knows_no_share_and_is_null_not_nan() -> None:
    (row,) = summary([cell(**FAILED), cell(failure="unreadable: no such file")])
    assert row["failures"] == [("damaged", 1), ("unreadable", 1)]
    unknown = {name for name, value in row.items() if value is None}
    shares = ("parasitaemia", "parasitaemia_ordinary")
    assert unknown == {
        f"{name}_{part}" for name in shares for part in ("percent", "low", "high")
    } | {
        *("parasitized_per_1000", "parasitized_per_1000_low", "parasitized_per_1000_high"),
        *("fields", "fields_read", "fields_excluded", "fields_for_review", "cells_at_border"),
        "exclusions",
        *("density_class", "detectable_percent"),
        "abnormal_fraction",
        "abnormal_p_value",
        "abnormality_median",
        "p_value_median",
        *("red", "green", "blue"),
        *("shift", "shift_p_value", "shifted", "shift_tap"),
        *("smear_shift", "smear_spread", "implausible"),
        "laboratory",
    }


def test_a_shifted_slide_is_for_review_once_and_the_furthest_of_several_patients_counts() -> None:
    tally = SlideTally(0.05)
    tally.count(rows([cell("a", "p")] * 10 + [cell("b", "q")] * 10))
    shift = {"patient_id": "p", "judged_cells": 10, "shift_p_value": 0.02, "shift_tap": "layer1"}
    found = [
        {"slide_id": "a", "shift": 1.0, "shifted": False} | shift,
        {"slide_id": "a", "shift": 4.0, "shifted": True} | shift,
        {"slide_id": "b", "shift": 0.5, "shifted": False} | shift,
    ]
    tally.count_shifts(pa.Table.from_pylist(found, SHIFTS))
    a, b = tally.table(MADE_BY).to_pylist()
    assert (a["shift"], a["shifted"], a["shift_tap"]) == (4.0, True, "layer1")
    assert (a["verdict"], a["review_reasons"]) == ("review", ["shifted"])
    assert (b["shift"], b["verdict"]) == (0.5, "accept")


@given(
    st.lists(st.floats(-8, 50), min_size=1, max_size=30),
    st.lists(st.floats(1e-6, 1), min_size=1, max_size=30),
)
def test_medians_are_as_near_as_their_bins(scores: list[float], p_values: list[float]) -> None:
    (row,) = summary([cell(abnormality=score) for score in scores])
    assert_allclose(row["abnormality_median"], np.median(scores), atol=0.026)
    (row,) = summary([cell(p_value=p) for p in p_values])
    # Between the two in the middle the median is theirs of the logarithms.
    middle = np.median(np.log10(p_values))
    assert_allclose(np.log10(row["p_value_median"]), middle, atol=0.026)


some_cells = st.lists(
    st.builds(
        lambda slide, patient, kind: cell(slide, patient, **kind),
        st.sampled_from(["a", "b", None]),
        st.sampled_from(["p", "q", None]),
        st.sampled_from([{}, FAILED, ABNORMAL, UNCERTAIN, PARASITIZED]),
    ),
    max_size=30,
)


@given(some_cells, st.lists(st.integers(0, 30), max_size=3))
def test_the_summary_does_not_depend_on_the_parts(
    cells: list[dict[str, Any]], cuts: list[int]
) -> None:
    edges = [0, *sorted(cuts), len(cells)]
    parts = [cells[a:b] for a, b in pairwise(edges)]
    assert summary(*parts) == summary(cells)
    assert sum(row["cells"] for row in summary(cells)) == len(cells)


def test_rows_as_they_are_published_give_the_same_summary() -> None:
    table = rows([cell("a"), cell("b", **ABNORMAL), cell(None, **FAILED)])
    dictionaries = pa.table(
        {
            name: column.dictionary_encode() if pa.types.is_string(column.type) else column
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    )
    tallies = [SlideTally(ALPHA), SlideTally(ALPHA)]
    for tally, each in zip(tallies, (table, dictionaries), strict=True):
        tally.count(each)
    first, second = (tally.table(MADE_BY) for tally in tallies)
    assert first.equals(second)


@pytest.mark.parametrize("cells", [[], [cell()], [cell(**FAILED)]])
def test_the_table_has_the_columns_of_the_report(cells: list[dict[str, Any]]) -> None:
    tally = SlideTally(ALPHA)
    tally.count(rows(cells))
    counts = CountTally(COUNTING)
    counts.count(with_log_odds(rows(cells)))
    table = counts.slide_columns(tally.table(MADE_BY), MADE_BY)
    assert table.select(slide_schema().names).cast(slide_schema()).num_rows == len(cells)


def test_a_slide_has_the_mean_colour_of_its_scored_images() -> None:
    red, violet = {"red": 200, "green": 100, "blue": 100}, {"red": 100, "green": 50, "blue": 200}
    first, second = summary(
        [cell("a", **red), cell("a", **violet), cell("b")],
        [cell("a", **violet), cell("a", **FAILED), cell("a")],
    )
    assert [first[name] for name in ("red", "green", "blue")] == pytest.approx(
        [400 / 3, 200 / 3, 500 / 3]
    )
    assert [second[name] for name in ("red", "green", "blue")] == [None, None, None]


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
    assert [row[name] for name in ("cells", "scored", "red_cells", "white_cells")] == [
        27,
        26,
        20,
        5,
    ]
    assert (row["parasitized"], row["parasitaemia_percent"]) == (5, 25)
    assert row["parasitaemia_ordinary_percent"] == pytest.approx(100 * 4 / 19)
    interval = binomtest(5, 20).proportion_ci(method="wilson")
    names = ("", "_low", "_high")
    assert [row[f"parasitized_per_1000{name}"] for name in names] == pytest.approx(
        [250, 1000 * interval.low, 1000 * interval.high]
    )
    assert row["density_class"] == "10% or more"
    assert row["negative_call"] is None
    assert row["abnormal"] == 6


def test_whole_files_beside_cells_of_fields_count_as_red_cells() -> None:
    (row,) = summary([cell(kind=None)] * 3 + [cell(kind="red")] * 2)
    assert (row["red_cells"], row["white_cells"]) == (5, 0)


def test_a_slide_says_which_of_its_fields_were_read_and_why_the_others_were_not() -> None:
    fields = [field(), field(review_reason="dark"), field("empty"), field("empty"), UNREADABLE]
    (row,) = summary([cell()] * 10, fields=fields)
    counts = ("fields", "fields_read", "fields_excluded", "fields_for_review", "cells_at_border")
    assert [row[name] for name in counts] == [5, 2, 3, 2, 8]
    assert row["exclusions"] == [("damaged", 1), ("empty", 2)]


@pytest.mark.parametrize(
    ("cells", "fields", "reasons"),
    [
        ([cell()] * 4992, [field()] * 100, []),
        ([cell()] * 4991, [field()] * 100, ["too few cells for a negative call"]),
        ([cell()] * 50 + [cell(**PARASITIZED)], [field()], []),
        ([cell()] * 5000, [field(), field(review_reason="out of focus, dark")],
         ["fields dark", "fields out of focus"]),
        ([cell()] * 5000, [field(), UNREADABLE], ["fields failed"]),
        ([], [field("empty")], ["few cells", "too few cells for a negative call"]),
        ([cell()] * 5000, [field()] * 9 + [field(patient_id="q")], ["several patients"]),
    ],
)  # fmt: skip
def test_a_slide_is_for_review_where_its_fields_are_or_its_cells_are_too_few(
    cells: list[dict[str, Any]], fields: list[dict[str, Any]], reasons: list[str]
) -> None:
    (row,) = summary(cells, fields=fields)
    assert row["review_reasons"] == reasons
    assert row["verdict"] == ("review" if reasons else "accept")
    assert (row["negative_call"] == "enough cells") == (len(cells) >= 4992)


@pytest.mark.parametrize(
    ("tolerated", "beyond", "reasons"),
    [(0.02, 2, []), (0.02, 3, ["fields dark"]), (0.0, 1, ["fields dark"]), (0.1, 10, [])],
)
def test_a_few_of_many_fields_may_be_beyond_a_limit(
    tolerated: float, beyond: int, reasons: list[str]
) -> None:
    tally = SlideTally(ALPHA, tolerated=tolerated)
    tally.count(rows([cell()] * 5000))
    fields = [field(review_reason="dark")] * beyond + [field()] * (100 - beyond)
    fields += [field("empty")] * 900
    tally.count_fields(pa.Table.from_pylist(fields, schema=FIELD_KINDS))
    (row,) = tally.table(MADE_BY).to_pylist()
    assert (row["review_reasons"], row["fields_for_review"]) == (reasons, beyond)


def test_how_many_cells_are_enough_is_a_parameter() -> None:
    tally = SlideTally(ALPHA, detectable=1.0)
    tally.count(rows([cell()] * 300))
    tally.count_fields(pa.Table.from_pylist([field()], schema=FIELD_KINDS))
    (row,) = tally.table(MADE_BY).to_pylist()
    assert (row["review_reasons"], row["verdict"]) == ([], "accept")
    assert row["detectable_percent"] == pytest.approx(0.994, abs=0.001)


def test_fields_of_slides_with_and_without_cells_have_rows() -> None:
    found = summary([cell("a")] * 9, fields=[field(slide_id="b"), field(slide_id=None)])
    assert [(row["slide_id"], row["cells"], row["fields"]) for row in found] == [
        ("a", 9, None),
        ("b", 0, 1),
        (None, 0, 1),
    ]
    assert found[0]["exclusions"] is None


def test_the_table_of_slides_with_fields_has_the_columns_of_the_report() -> None:
    tally = SlideTally(ALPHA)
    tally.count(rows([cell()]))
    tally.count_fields(pa.Table.from_pylist([field(), UNREADABLE], schema=FIELD_KINDS))
    table = CountTally(COUNTING).slide_columns(tally.table(MADE_BY), MADE_BY)
    assert table.select(slide_schema().names).cast(slide_schema()).num_rows == 1


def test_copies_of_an_image_count_once_and_send_their_slide_to_a_person() -> None:
    once = [cell("a", **PARASITIZED), *[cell("a")] * 9, *[cell("b")] * 10]
    copies = [cell("a", **PARASITIZED), *[cell("a")] * 9] * 69
    table = rows(once + copies)
    marks = [False] * len(once) + [True] * len(copies)
    tally = SlideTally(ALPHA)
    tally.count(table.append_column(REPEATED, pa.array(marks)))
    copied, other = tally.table(MADE_BY).to_pylist()
    (alone, _) = summary(once)
    assert copied["review_reasons"] == ["repeated images"]
    assert other["review_reasons"] == alone["review_reasons"] == []
    counted = [name for name in alone if name.startswith(("parasit", "red_cells"))]
    assert {n: copied[n] for n in counted} == {n: alone[n] for n in counted}
    assert (copied["cells"], alone["cells"]) == (700, 10)


def test_the_first_of_equal_digests_is_no_copy_and_nor_are_images_without() -> None:
    digest = "0123456789abcdef" * 4
    parts = [[digest, None, "f" * 64], [], [None, digest, "e" * 64, digest]]
    found = repeats(pa.array(part, pa.string()) for part in parts)
    assert found.tolist() == [False, False, False, False, True, False, True]
    assert repeats([]).tolist() == []
