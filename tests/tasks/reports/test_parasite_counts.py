"""Counts of parasites by slide and patient, and the columns that say what they mean."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.reports.schemas.patients import patient_schema
from storage.reports.schemas.slides import slide_schema
from tasks.counting.call import Answers
from tasks.counting.interpretation import ErrorRates, KnownRates
from tasks.counting.rates import NODES, Rate
from tasks.reports.image_columns import REPEATED
from tasks.reports.parasite_counts import (
    LOG_ODDS,
    UNREADABLE,
    UNREADABLE_AT_LABORATORY,
    Counting,
    CountTally,
)
from tasks.reports.slide_reasons import SlideReason
from tasks.reports.slide_rows import SlideTally
from tests.support.cell_rows import ABNORMAL, FAILED, KINDS, MADE_BY, UNCERTAIN, cell

THRESHOLD = 3.0
SCHEMA = pa.schema(
    [*KINDS.items(), (LOG_ODDS, pa.float64()), ("kind", pa.string()), (REPEATED, pa.bool_())]
)


def fixed(value: float) -> Rate:
    return Rate(value, value, value, 0.0, 9, 900, np.full(NODES, value))


KNOWN = KnownRates(
    ErrorRates(THRESHOLD, fixed(0.001), fixed(0.8)),
    ErrorRates(1.0, Rate(0.02, 0.0, 0.04, 0.01, 9, 900, np.linspace(0, 0.04, NODES)), fixed(0.9)),
)


def parasite(log_odds: float = 5.0, **other: Any) -> dict[str, Any]:
    return cell(**other) | {LOG_ODDS: log_odds, "diagnosis": "Parasitized"}


def healthy(log_odds: float = -5.0, **other: Any) -> dict[str, Any]:
    return cell(**other) | {LOG_ODDS: log_odds}


def tables(
    *parts: list[dict[str, Any]],
    rates: KnownRates | None = KNOWN,
    made_by: Any = MADE_BY,
    wanted: float = 0.01,
    unreadable: tuple[SlideReason, ...] = UNREADABLE,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows on slides and on patients of parts of a night."""
    counting = Counting(Answers(rates, wanted), 4e6, unreadable=unreadable)
    slides, counts = SlideTally(0.05), CountTally(counting)
    for part in parts:
        rows = pa.Table.from_pylist(part, schema=SCHEMA)
        slides.count(rows)
        counts.count(rows)
    table = slides.table(made_by)
    patients = counts.patients(table, made_by)
    return counts.slide_columns(table, made_by).to_pylist(), patients.to_pylist()


def test_cells_count_that_are_red_whole_and_ordinary() -> None:
    night = [
        parasite(),
        parasite(2.0),  # diagnosed, but below the counting threshold
        parasite(**ABNORMAL),
        parasite(kind="white"),
        parasite(abnormal=None, p_value=None, abnormality=None),  # cut by the border
        parasite(**{REPEATED: True}),
        cell(**FAILED),
        healthy(**UNCERTAIN),
        healthy(log_odds=None),
        *[healthy()] * 10,
    ]
    (slide,), (patient,) = tables(night)
    assert (slide["cells_read"], slide["cells_called"]) == (13, 1)
    assert (patient["cells_read"], patient["cells_called"]) == (13, 1)
    assert slide["cells_called_dense"] == 2
    assert (slide["counting_threshold"], slide["dense_threshold"]) == (THRESHOLD, 1.0)


def test_a_count_is_corrected_and_called() -> None:
    (slide,), (patient,) = tables([parasite()] * 39 + [healthy()] * 961)
    assert slide["call"] == patient["call"] == "positive"
    assert slide["corrected_percent"] == pytest.approx(100 * (0.039 - 0.001) / 0.799)
    assert slide["corrected_by"] == "counting"
    assert slide["corrected_low"] < slide["corrected_percent"] < slide["corrected_high"]
    assert slide["parasites_per_1000"] == pytest.approx(10 * slide["corrected_percent"])
    per_microlitre = slide["corrected_percent"] / 100 * 4e6
    assert slide["parasites_per_microlitre"] == pytest.approx(per_microlitre)
    assert slide["corrected_density_class"] == "2% to 5%"
    assert slide["limit_of_blank_percent"] < slide["limit_of_detection_percent"]
    shared = set(patient) - {"patient_id", "slide_id", "slides", "slides_read"}
    assert {name: slide[name] for name in shared} == {name: patient[name] for name in shared}


def test_parts_in_any_division_give_the_same_rows() -> None:
    night = [parasite(slide=f"s{i % 3}", patient=f"p{i % 2}") for i in range(40)]
    night += [healthy(slide=f"s{i % 3}", patient=f"p{i % 2}") for i in range(400)]
    whole = tables(night)
    for one, other in zip(whole, tables(night[:7], night[7:301], night[301:]), strict=True):
        for row, same in zip(one, other, strict=True):
            numbers = {name: v for name, v in row.items() if isinstance(v, float)}
            assert numbers == pytest.approx({name: same[name] for name in numbers})
            assert row.keys() == same.keys()


def test_a_patient_has_the_cells_of_all_readable_slides() -> None:
    night = [parasite(slide=s, patient="p") for s in "ab" for _ in range(30)]
    night += [healthy(slide=s, patient="p") for s in "ab" for _ in range(600)]
    night += [cell(slide="b", patient="p", **FAILED) for _ in range(200)]  # cannot be read
    slides, (patient,) = tables(night)
    assert [each["call"] for each in slides] == ["positive", "unreadable"]
    assert slides[1]["call_reasons"] == ["many failed"]
    assert slides[1]["corrected_percent"] is slides[1]["limit_of_detection_percent"] is None
    assert (patient["slides"], patient["slides_read"]) == (2, 1)
    assert (patient["cells_read"], patient["call"]) == (630, "positive")


def test_a_patient_without_a_readable_slide_is_unreadable() -> None:
    night = [cell(slide="b", patient="p", **FAILED)] * 5 + [healthy(slide="b", patient="p")] * 5
    _, (patient,) = tables(night)
    assert (patient["call"], patient["call_reasons"]) == ("unreadable", ["many failed"])
    assert patient["cells_read"] == 0


def test_a_slide_without_a_patient_stands_for_one_and_images_without_either_are_last() -> None:
    night = [healthy(slide="s", patient=p) for p in ("q", "p")]
    night += [healthy(slide=s, patient=None) for s in (None, "t", "r")]
    _, patients = tables(night)
    found = [(row["patient_id"], row["slide_id"]) for row in patients]
    assert found == [("p", None), ("q", None), (None, "r"), (None, "t"), (None, None)]
    # A slide of several patients belongs to none of them.
    assert [row["call"] for row in patients][:2] == ["unreadable"] * 2


def test_a_slide_that_has_fields_and_no_cells_is_a_patient_of_its_own_too() -> None:
    slides, counts = SlideTally(0.05), CountTally(Counting(Answers(KNOWN, 0.01), 4e6))
    row = {"slide_id": "empty", "patient_id": "p", "kind": "thick", "cells_at_border": 0}
    columns = ["slide_id", "patient_id", "kind", "failure", "review_reason", "cells_at_border"]
    slides.count_fields(pa.table({name: [row.get(name)] for name in columns}))
    (patient,) = counts.patients(slides.table(MADE_BY), MADE_BY).to_pylist()
    assert (patient["patient_id"], patient["call"]) == ("p", "unreadable")
    assert patient["call_reasons"] == ["no red cells"]


def test_a_laboratory_that_knows_its_error_rates_reads_slides_with_many_cells_in_doubt() -> None:
    doubted = [healthy(**UNCERTAIN)] * 60 + [healthy()] * 40
    for unreadable, call in ((UNREADABLE, "unreadable"), (UNREADABLE_AT_LABORATORY, "negative")):
        (slide,), (patient,) = tables(doubted, wanted=0.5, unreadable=unreadable)
        assert slide["review_reasons"] == ["many uncertain"]
        assert slide["call"] == patient["call"] == call


def test_without_error_rates_the_count_stands_alone() -> None:
    (slide,), (patient,) = tables([parasite(1.0)] * 50 + [healthy()] * 50, rates=None)
    for row in (slide, patient):
        assert (row["call"], row["call_reasons"]) == ("indeterminate", ["error rates unknown"])
        assert (row["cells_called"], row["counting_threshold"]) == (50, 0.0)
        assert row["corrected_percent"] is row["cells_needed"] is None


def test_expected_errors_are_sums_of_probabilities_and_doubted_at_a_laboratory() -> None:
    night = [parasite(2.0)] * 10 + [healthy(-2.0)] * 30
    (slide,), _ = tables(night)
    wrong = 1 / (1 + np.exp(2.0))
    assert slide["expected_false_calls"] == pytest.approx(10 * wrong)
    assert slide["expected_missed"] == pytest.approx(30 * wrong)
    assert slide["expected_accuracy"] == pytest.approx(1 - wrong)
    assert slide["expected_accuracy_low"] < 1 - wrong < slide["expected_accuracy_high"]
    assert slide["expected_doubt"] is None
    (slide,), _ = tables(night, made_by=replace(MADE_BY, laboratory="far/v0001"))
    assert slide["expected_doubt"] == "other laboratory"


def test_columns_are_those_of_the_schemas() -> None:
    slides, patients = tables([parasite(), healthy()])
    assert set(slides[0]) == set(slide_schema().names)
    assert set(patients[0]) == set(patient_schema().names)
