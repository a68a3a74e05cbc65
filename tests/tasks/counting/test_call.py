import numpy as np
import pytest

from tasks.counting.call import Answers, Call, CallReason, CountedBy
from tasks.counting.limits import ErrorRates, KnownRates
from tasks.counting.rates import NODES, Rate


def fixed(value: float) -> Rate:
    return Rate(value, value, value, 0.0, 9, 900, np.full(NODES, value))


def varied(low: float, high: float) -> Rate:
    return Rate((low + high) / 2, low, high, 0.0, 9, 900, np.linspace(low, high, NODES))


def known(false: Rate, found: Rate) -> KnownRates:
    """Rates of a counting threshold, beside one that calls one healthy cell in fifty."""
    return KnownRates(
        ErrorRates(2.0, false, found), ErrorRates(0.0, varied(0.0, 0.04), fixed(0.95))
    )


KNOWN = known(fixed(0.001), fixed(0.8))


@pytest.mark.parametrize(
    ("called", "cells", "call", "reasons"),
    [
        (500, 5000, Call.POSITIVE, ()),
        (2, 5000, Call.NEGATIVE, ()),
        (0, 100, Call.INDETERMINATE, (CallReason.TOO_FEW,)),
        (0, 0, Call.UNREADABLE, (CallReason.NO_CELLS,)),
    ],
)
def test_a_count_is_called(
    called: int, cells: int, call: Call, reasons: tuple[CallReason, ...]
) -> None:
    answer = Answers(KNOWN, 0.005).of(called, called, cells)
    assert (answer.call, answer.reasons) == (call, reasons)


def test_a_negative_call_says_what_it_excludes() -> None:
    answer = Answers(KNOWN, 0.005).of(3, 9, 5000)
    assert answer.call == Call.NEGATIVE
    assert answer.none_above is not None
    assert answer.high is not None
    assert 0 < answer.none_above < 0.005
    assert answer.none_above <= answer.high
    assert answer.parasitaemia == 0.0


def test_where_slides_differ_too_much_no_number_of_cells_is_negative() -> None:
    answer = Answers(known(varied(0.0, 0.02), fixed(0.8)), 0.005).of(300, 300, 20_000)
    assert (answer.call, answer.reasons) == (Call.INDETERMINATE, (CallReason.RATES_TOO_HIGH,))
    assert answer.needed is None


def test_with_as_many_cells_as_are_needed_no_slide_is_in_doubt() -> None:
    answers = Answers(KNOWN, 0.002)
    assert answers.needed is not None
    calls = [answers.of(called, called, answers.needed).call for called in range(60)]
    assert set(calls) == {Call.NEGATIVE, Call.POSITIVE}
    assert calls == sorted(calls)  # negative below, positive above


def test_without_error_rates_no_figure_is_given() -> None:
    answer = Answers(None, 0.005).of(50, 50, 5000)
    assert (answer.call, answer.reasons) == (Call.INDETERMINATE, (CallReason.RATES_UNKNOWN,))
    assert answer.parasitaemia is answer.low is answer.limit_of_detection is None


def test_a_slide_that_is_wrong_as_a_whole_has_no_figure() -> None:
    answer = Answers(KNOWN, 0.005).of(500, 500, 5000, ("shifted",))
    assert (answer.call, answer.reasons) == (Call.UNREADABLE, ("shifted",))
    assert answer.parasitaemia is None


def test_the_corrected_share_lies_in_its_interval() -> None:
    answers = Answers(known(varied(0.0, 0.02), varied(0.5, 0.9)), 0.005)
    for called in (0, 3, 30, 300, 3000, 5000):
        answer = answers.of(called, called, 5000)
        assert answer.low is not None
        assert answer.high is not None
        assert answer.parasitaemia is not None
        assert 0 <= answer.low <= answer.parasitaemia <= answer.high <= 1


def test_few_parasites_are_counted_by_one_threshold_and_many_by_the_other() -> None:
    answers = Answers(known(fixed(0.001), varied(0.3, 0.7)), 0.005)
    few, many = answers.of(20, 80, 5000), answers.of(1000, 1900, 5000)
    assert (few.call, few.by) == (Call.POSITIVE, CountedBy.COUNTING)
    assert (many.call, many.by) == (Call.POSITIVE, CountedBy.DENSE)
    assert many.parasitaemia == pytest.approx((1900 / 5000 - 0.02) / 0.93)
    assert answers.of(2, 80, 5000).by == CountedBy.COUNTING
