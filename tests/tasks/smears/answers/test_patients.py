"""A person confirms or refuses a patient by a few cells, and the count follows."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.smears.answers.patients import MOST_READ, PatientAnswer, Suspect, confirm
from tests.support.rates import RATES

P, U, UNSURE = "Parasitized", "Uninfected", "unsure"


def suspect(called: int, cells: int = 1000, others: int = 0, **more: object) -> Suspect:
    seen = {"looking": called + others, "red_cells": cells, "is_covered": True}
    values = {"name": "p", "call": "positive", "cells": cells} | seen | more
    ids = tuple(f"c{i:04d}" for i in range(called))
    return Suspect(called=ids, others=tuple(f"o{i}" for i in range(others)), **values)  # type: ignore[arg-type]


def found(patient: Suspect, *answers: str) -> Any:
    said = dict(zip(patient.order, answers, strict=False))
    return confirm(patient, said, P, RATES.counting, 0.01)


def test_at_most_ten_cells_are_read_the_most_probable_first_and_then_some_drawn_blindly() -> None:
    order = suspect(300).order
    assert order[:5] == [f"c000{i}" for i in range(5)]
    assert len(order) == MOST_READ
    assert max(order[5:]) > "c0050"
    assert suspect(3, others=9).order == ["c0000", "c0001", "c0002", *(f"o{i}" for i in range(7))]


@pytest.mark.parametrize(
    ("answers", "answer"),
    [
        ((), PatientAnswer.OPEN),
        ((U, U), PatientAnswer.OPEN),
        ((U, P), PatientAnswer.CONFIRMED),
        ((U, U, U), PatientAnswer.REFUSED),
        ((U, U, UNSURE), PatientAnswer.UNSURE),
        ((U, UNSURE, P), PatientAnswer.CONFIRMED),
    ],
)
def test_one_parasite_confirms_and_none_among_all_refuses(
    answers: tuple[str, ...], answer: PatientAnswer
) -> None:
    assert found(suspect(3), *answers).answer == answer


def test_a_cell_on_which_readers_differ_disputes_a_patient_without_certain_parasites() -> None:
    one, *rest = suspect(3).order
    for each, answer in ((U, PatientAnswer.DISPUTED), (P, PatientAnswer.CONFIRMED)):
        told = confirm(suspect(3), dict.fromkeys(rest, each), P, None, 0.01, {one})
        assert (told.answer, told.read) == (answer, 3)


def test_a_parasite_that_a_person_finds_elsewhere_confirms_and_counts() -> None:
    marked = replace(suspect(3), elsewhere=("e",))
    refused = dict.fromkeys(marked.order, U)
    told = confirm(marked, refused | {"e": P}, P, RATES.counting, 0.01)
    assert (told.answer, told.call, told.read, told.parasites) == ("confirmed", "positive", 4, 1)
    assert told.parasitaemia >= 1 / 1000  # type: ignore[operator]
    assert confirm(marked, refused, P, None, 0.01, {"e"}).answer == PatientAnswer.DISPUTED


def test_the_count_is_that_of_the_parasites_that_persons_see() -> None:
    half = found(suspect(8), *[P, U] * 4)
    # Four of a thousand, of which four in five are found.
    assert half.parasitaemia == pytest.approx(0.005, rel=0.01)
    assert 0.001 < half.low < 0.004 < 0.006 < half.high < 0.02
    assert half.call == "positive"


def test_parasites_that_did_not_count_make_a_suspected_patient_positive() -> None:
    told = found(suspect(0, others=10, call="suspected"), *[P] * 4, *[U] * 6)
    assert told.call == "positive"
    assert told.parasitaemia == pytest.approx(4 / 1000)


def test_what_nobody_has_read_has_the_share_of_the_blindly_drawn_and_a_wider_interval() -> None:
    many = suspect(200)
    all_true = found(many, *[P] * 10)
    assert 0.2 < all_true.parasitaemia <= 0.25
    drawn_false = found(many, *[P] * 5, *[U] * 5)
    assert drawn_false.parasitaemia < 0.05
    width = drawn_false.high - drawn_false.low
    read_all = found(suspect(10), *[P] * 10)
    assert width > read_all.high - read_all.low


def test_a_refused_patient_is_negative_only_where_enough_measured_cells_exclude_parasites() -> None:
    assert found(suspect(4, cells=2000), *[U] * 4).call == "negative"
    assert found(suspect(4, cells=50), *[U] * 4).call == "indeterminate"
    assert found(suspect(4, cells=2000, is_covered=False), *[U] * 4).call == "indeterminate"
    assert found(suspect(4, cells=2000, looking=300), *[U] * 4).call == "indeterminate"


def test_parasites_that_did_not_count_are_estimated_over_all_red_cells() -> None:
    """Eight of ten shown cells are parasites, and 253 of 2,900 red cells look parasitized."""
    many = suspect(5, cells=1400, others=240, looking=253, red_cells=2900)
    told = found(many, *[P] * 5, *[P, P, P, U, U])
    assert told.low < 0.01 < 0.04 < told.parasitaemia < 0.07 < told.high
    none = found(replace(many, looking=5), *[P] * 5, *[P, P, P, U, U])
    assert none.parasitaemia < told.parasitaemia


@given(
    called=st.integers(0, 40),
    others=st.integers(0, 20),
    extra=st.integers(0, 500),
    said=st.lists(st.sampled_from([P, U]), min_size=10, max_size=10),
    at=st.integers(0, 9),
)
def test_one_more_parasite_never_lowers_the_estimate_nor_leaves_the_interval(
    called: int, others: int, extra: int, said: list[str], at: int
) -> None:
    patient = suspect(called, 1000, others, looking=called + others + extra, red_cells=1500)
    first = found(patient, *said)
    if first.call is None:
        return
    assert first.low <= first.parasitaemia <= first.high
    assert said[: len(patient.order)].count(P) / 1500 <= first.high
    more = [P if n == at else each for n, each in enumerate(said)]
    again = found(patient, *more)
    assert again.parasitaemia >= first.parasitaemia - 1e-12


def test_without_error_rates_there_is_an_answer_and_no_figure() -> None:
    told = confirm(suspect(2), dict.fromkeys(suspect(2).order, P), P, None, 0.01)
    assert (told.answer, told.call, told.parasitaemia) == (PatientAnswer.CONFIRMED, None, None)
