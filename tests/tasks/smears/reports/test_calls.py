"""Counts of parasites by slide and patient, and the columns that say what they mean."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from storage.smears.schemas.patients import PATIENT_SCHEMA
from storage.smears.schemas.slides import SLIDE_SCHEMA
from tasks.reports.image_columns import SHIFTS, STRANGEST
from tasks.smears.counting.call import Interpreter, call_text
from tasks.smears.counting.interpretation import ErrorRates, KnownRates
from tasks.smears.counting.negative import Measured
from tasks.smears.counting.rates import NODES, Rate
from tasks.smears.reports.calls import Counting
from tests.support.cell_rows import ABNORMAL, FAILED, MADE_BY, MEASURED, UNCERTAIN, cell
from tests.support.grouped import Grouped, group
from tests.support.rates import fixed

THRESHOLD = 3.0
COARSER = "coarser or less sharp than measured slides"

KNOWN = KnownRates(
    ErrorRates(THRESHOLD, fixed(0.001), fixed(0.8)),
    ErrorRates(1.0, Rate(0.02, 0.0, 0.04, 0.01, 9, 900, np.linspace(0, 0.04, NODES)), fixed(0.9)),
)


def parasite(log_odds: float = 5.0, **other: Any) -> dict[str, Any]:
    return cell(**other) | {"log_odds": log_odds, "diagnosis": "Parasitized"}


def healthy(log_odds: float = -5.0, **other: Any) -> dict[str, Any]:
    return cell(**other) | {"log_odds": log_odds}


def grouped(
    cells: list[dict[str, Any]],
    rates: KnownRates | None = KNOWN,
    wanted: float = 0.01,
    measured: Measured | None = MEASURED,
    fields: list[dict[str, Any]] | None = None,
    *,
    commissioned: bool = False,
) -> Grouped:
    counting = Counting(
        Interpreter(rates, wanted),
        lambda: Interpreter(rates, wanted),
        4e6,
        0.05,
        Interpreter(rates, wanted),
        measured=measured,
        commissioned=commissioned,
    )
    return group(cells, counting=counting, made_by=MADE_BY, fields=fields)


def tables(
    cells: list[dict[str, Any]], **options: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows on slides and on patients of a night."""
    made = grouped(cells, **options)
    return made.slides, made.patients


def test_cells_count_that_are_red_and_whole() -> None:
    night = [
        parasite(),
        parasite(2.0),  # diagnosed, but below the counting threshold
        parasite(**ABNORMAL),
        parasite(kind="white"),
        parasite(abnormal=None, p_value=None, abnormality=None),  # cut by the border
        parasite(repeated=True),
        cell(**FAILED),
        healthy(**UNCERTAIN),
        healthy(log_odds=None),
        *[healthy()] * 10,
    ]
    (slide,), (patient,) = tables(night)
    assert (slide["cells_read"], slide["cells_called"]) == (14, 2)
    assert (patient["cells_read"], patient["cells_called"]) == (14, 2)
    assert slide["counting_threshold"] == patient["counting_threshold"] == THRESHOLD


def test_where_parasites_are_many_cells_count_from_a_lower_threshold_on() -> None:
    (slide,), _ = tables([parasite()] * 300 + [parasite(2.0)] * 100 + [healthy()] * 600)
    assert (slide["cells_called"], slide["counting_threshold"]) == (400, 1.0)
    assert slide["call"] == "positive"


def test_a_count_is_corrected_and_called() -> None:
    (slide,), (patient,) = tables([parasite()] * 39 + [healthy()] * 961)
    assert slide["call"] == patient["call"] == "positive"
    assert slide["corrected_percent"] == pytest.approx(100 * (0.039 - 0.001) / 0.799)
    assert (slide["cells_called"], slide["counting_threshold"]) == (39, THRESHOLD)
    assert slide["corrected_low"] < slide["corrected_percent"] < slide["corrected_high"]
    per_microlitre = slide["corrected_percent"] / 100 * 4e6
    assert slide["parasites_per_microlitre"] == pytest.approx(per_microlitre)
    assert slide["density_class"] == "2% to 5%"
    assert slide["limit_of_blank_percent"] < slide["limit_of_detection_percent"]
    own = {"patient_id", "slide_id", "slides", "slides_read", "model", "scored_at"}
    shared = set(patient) - own
    assert {name: slide[name] for name in shared} == {name: patient[name] for name in shared}


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
    field = {"source_uri": "f", "slide_id": "empty", "patient_id": "p", "kind": "thick"}
    (patient,) = group([], fields=[field]).patients
    assert (patient["patient_id"], patient["call"]) == ("p", "unreadable")
    assert patient["call_reasons"] == ["no red cells"]
    assert (patient["slides"], patient["slides_read"]) == (1, 1)


def test_a_laboratory_that_knows_its_error_rates_reads_slides_with_many_uncertain_cells() -> None:
    doubted = [healthy(**UNCERTAIN)] * 60 + [healthy()] * 40
    for commissioned, call in ((False, "unreadable"), (True, "negative")):
        (slide,), (patient,) = tables(doubted, wanted=0.5, commissioned=commissioned)
        assert slide["review_reasons"] == ["many uncertain"]
        assert slide["call"] == patient["call"] == call


HEALTHY = [healthy()] * 2000
FIELD = {"source_uri": "f", "slide_id": "s", "patient_id": "p", "kind": "field"}


@pytest.mark.parametrize(
    ("cells", "measured", "sharpness", "reason"),
    [
        (HEALTHY, MEASURED, None, None),
        (HEALTHY, MEASURED, 0.03, None),
        (HEALTHY, None, None, "new laboratory"),  # nobody has fitted or commissioned anything
        ([healthy(width=70, height=79)] * 2000, MEASURED, None, COARSER),
        ([healthy(width=None)] * 2000, MEASURED, None, None),
        (HEALTHY, MEASURED, 0.01, COARSER),
        (HEALTHY, replace(MEASURED, least_sharpness=None), 0.03, COARSER),
        # 3% look parasitized, but are not sure enough: one in a hundred would be usual.
        ([parasite(0.5)] * 90 + HEALTHY[:1910], MEASURED, None, "suspects that do not count"),
        ([parasite(0.5, kind="white")] * 90 + HEALTHY, MEASURED, None, None),
    ],
)
def test_nobody_is_negative_beyond_what_was_measured(
    cells: list[dict[str, Any]],
    measured: Measured | None,
    sharpness: float | None,
    reason: str | None,
) -> None:
    fields = None if sharpness is None else [FIELD | {"sharpness": sharpness}]
    if fields:
        cells = [each | {"source_uri": "f"} for each in cells]
    made = grouped(cells, measured=measured, fields=fields)
    for row in (*made.slides, *made.patients):
        if reason is None:
            assert (row["call"], row["none_above_percent"]) == ("negative", pytest.approx(0, abs=1))
            continue
        assert (row["call"], row["call_reasons"]) == ("indeterminate", [reason])
        # Nobody knows the parasitaemia, so it is not 0.
        assert (
            row["corrected_percent"] is row["corrected_high"] is row["none_above_percent"] is None
        )
        assert row["parasites_per_microlitre"] is row["density_class"] is None
        assert call_text(row).startswith("no answer")


def test_a_patient_is_negative_only_if_each_readable_slide_can_be() -> None:
    fine, coarse = (healthy(slide=s, width=w, height=w) for s, w in (("a", 100), ("b", 60)))
    slides, (patient,) = tables([fine] * 2000 + [coarse] * 2000)
    assert [each["call"] for each in slides] == ["negative", "indeterminate"]
    assert (patient["call"], patient["call_reasons"]) == ("indeterminate", [COARSER])
    # Cells that look parasitized count against it on an unreadable slide, too.
    worse = [parasite(slide="b", **UNCERTAIN)] * 100 + [cell(slide="b", **FAILED)] * 50
    slides, (patient,) = tables([fine] * 2000 + worse)
    assert [each["call"] for each in slides] == ["negative", "unreadable"]
    assert (patient["call"], patient["slides_read"]) == ("indeterminate", 1)


def test_without_error_rates_the_count_stands_alone() -> None:
    (slide,), (patient,) = tables([parasite(1.0)] * 50 + [healthy()] * 50, rates=None)
    for row in (slide, patient):
        assert (row["call"], row["call_reasons"]) == ("indeterminate", ["error rates unknown"])
        assert (row["cells_called"], row["counting_threshold"]) == (50, 0.0)
        assert row["corrected_percent"] is row["cells_needed"] is None


def test_cells_that_do_not_count_make_a_patient_suspected_and_are_said() -> None:
    ordinary = [healthy()] * 1000
    parasites = [parasite(abnormality=None)] * 40
    (slide,), (patient,) = tables(ordinary + parasites)
    for row in (slide, patient):
        assert (row["call"], row["call_reasons"]) == ("suspected", ["suspects that do not count"])
        assert (row["parasitized"], dict(row["set_aside"])) == (40, {"cut": 40})
        assert row["cells_called"] == 0
    assert "40 look parasitized: 40 " in call_text(patient)
    few = tables(ordinary + parasites[:1])[1][0]
    assert few["call"] == "negative"
    (slide,), _ = tables([parasite(abnormality=None)] * 40)
    assert slide["call"] == "suspected"  # though no cell is left to count


@pytest.mark.parametrize("commissioned", [False, True])
def test_abnormal_cells_count_unless_they_are_stranger_than_parasites(commissioned: bool) -> None:
    for abnormality, call, called in (
        (STRANGEST, "positive", 40),
        (STRANGEST + 0.1, "indeterminate", 0),  # no parasite, nor a healthy cell
    ):
        parasites = [parasite(abnormal=True, abnormality=abnormality)] * 40
        cells = parasites + [healthy()] * 1000
        (slide,), (patient,) = tables(cells, commissioned=commissioned)
        for row in (slide, patient):
            assert (row["call"], row["cells_called"]) == (call, called)
        left = {} if called else {"abnormal": 40}
        assert (patient["cells_read"], dict(patient["set_aside"])) == (1000 + called, left)


def test_columns_are_those_of_the_schemas() -> None:
    slides, patients = tables([parasite(), healthy()])
    assert list(slides[0]) == SLIDE_SCHEMA.names
    assert list(patients[0]) == PATIENT_SCHEMA.names
    assert len(slides[0]) <= 48


WIDE = KnownRates(
    *(ErrorRates(each.log_odds, fixed(0.1), fixed(0.5)) for each in (KNOWN.counting, KNOWN.dense))
)


def called_when(
    cells: list[dict[str, Any]],
    *,
    shifted: bool,
    commissioned: bool = False,
    sure: KnownRates = KNOWN,
) -> tuple[list[str], dict[str, Any]]:
    """The calls of a slide and its patient, if the slide is further away than any fitted one."""
    shift = dict.fromkeys(SHIFTS.names) | {"slide_id": "s", "shift": 1.0, "shifted": shifted}
    counting = Counting(
        Interpreter(KNOWN, 0.01),
        lambda: Interpreter(WIDE, 0.01),
        4e6,
        0.05,
        Interpreter(sure, 0.01),
        measured=MEASURED,
        commissioned=commissioned,
    )
    made = group(cells, counting=counting, made_by=MADE_BY, shifts=[shift])
    (slide,), (patient,) = made.slides, made.patients
    return [slide["call"], patient["call"]], patient


@pytest.mark.parametrize(
    ("parasites", "at_home", "elsewhere"),
    [
        (0, "negative", "indeterminate"),
        (39, "positive", "suspected"),
        (300, "positive", "positive"),
    ],
)
def test_a_slide_of_a_new_laboratory_is_called_by_the_rates_of_any(
    parasites: int, at_home: str, elsewhere: str
) -> None:
    cells = [parasite()] * parasites + [healthy()] * (1000 - parasites)
    cells[-300:] = [healthy(**UNCERTAIN)] * 300  # no fault there: the wide rates say it
    assert called_when(cells[:1000], shifted=True)[0] == [elsewhere] * 2
    calls, patient = called_when(cells[:700] * 2, shifted=False)
    assert calls == [at_home] * 2
    assert patient["call_reasons"] == []


@pytest.mark.parametrize(("sure", "healthy_cells"), [(1, 300), (2, 300), (3, 3000), (12, 400)])
def test_who_is_suspected_stays_so_when_the_laboratory_is_commissioned(
    sure: int, healthy_cells: int
) -> None:
    cells = [*[parasite(7.0)] * sure, *[healthy()] * healthy_cells]
    cells += [healthy(abnormal=None, p_value=None, abnormality=None)] * 400  # cut off
    before, _ = called_when(cells, shifted=True, sure=SURE)
    after, _ = called_when(cells, shifted=False, commissioned=True, sure=SURE)
    assert before == ["suspected"] * 2
    assert set(after) <= {"positive", "suspected"}


SURE = KnownRates(*[ErrorRates(6.0, fixed(0.0001), fixed(0.4))] * 2)


@pytest.mark.parametrize(("turned", "call"), [(4, "negative"), (12, "unreadable")])
def test_a_slide_whose_diagnoses_turn_when_blurred_is_unreadable(turned: int, call: str) -> None:
    looked = [healthy(steady=place >= turned) for place in range(50)]
    (slide,), (patient,) = tables([*looked, *[healthy()] * 2000])
    assert slide["call"] == patient["call"] == call
    assert ("diagnoses turn when blurred" in slide["review_reasons"]) is (call == "unreadable")


def test_at_a_laboratory_that_nobody_knows_sure_parasites_alone_count() -> None:
    likely, sure = [parasite()] * 40, [parasite(7.0)] * 40
    for parasites, call, called in ((likely, "indeterminate", 0), (sure, "suspected", 40)):
        _, patient = called_when([*parasites, *HEALTHY], shifted=True, sure=SURE)
        assert (patient["call"], patient["cells_called"]) == (call, called)
        assert (patient["call_reasons"], patient["counting_threshold"]) == (["new laboratory"], 6.0)


URGENCY = ("negative", "indeterminate", "suspected", "positive")
FORMS: dict[str, dict[str, Any]] = {
    "whole": {},
    "abnormal": ABNORMAL,
    "very strange": ABNORMAL | {"abnormality": STRANGEST + 1},
    "cut": {"abnormal": None, "p_value": None, "abnormality": None},
}
ODD_CELLS = st.lists(st.tuples(st.floats(-6, 8), st.sampled_from(sorted(FORMS))), max_size=12)


@settings(max_examples=20)
@given(st.integers(10, 1500), ODD_CELLS, st.data(), st.booleans(), st.booleans())
def test_no_call_is_less_urgent_because_a_cell_is_likelier_or_there_is_one_more(
    ordinary: int,
    odd: list[tuple[float, str]],
    data: st.DataObject,
    commissioned: bool,
    is_measured: bool,
) -> None:
    def call(some: list[tuple[float, str]]) -> str:
        cells = [parasite(x, **FORMS[f]) if x > 0 else healthy(x, **FORMS[f]) for x, f in some]
        measured = MEASURED if is_measured else None
        night = [*[healthy()] * ordinary, *cells]
        _, (patient,) = tables(night, commissioned=commissioned, measured=measured)
        return str(patient["call"])

    likelier = list(odd)
    more = data.draw(st.floats(THRESHOLD, 8)), data.draw(st.sampled_from(sorted(FORMS)))
    if odd and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(odd) - 1))
        likelier[place] = max(odd[place][0], more[0]), odd[place][1]
    else:
        likelier.append(more)
    before, after = call(odd), call(likelier)
    assume("unreadable" not in (before, after))
    assert URGENCY.index(after) >= URGENCY.index(before)
