import numpy as np
import pytest

from tasks.smears.counting.call import Call, CallReason, CountedBy, Interpreter, of_new
from tasks.smears.counting.interpretation import ErrorRates, KnownRates
from tasks.smears.counting.rates import NODES, Rate, predict_rate
from tests.support.rates import fixed


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
        # However many of a handful of cells are called, they make nobody positive.
        (1, 2, Call.INDETERMINATE, (CallReason.TOO_FEW,)),
        (29, 29, Call.INDETERMINATE, (CallReason.TOO_FEW,)),
        (30, 30, Call.POSITIVE, ()),
    ],
)
def test_a_count_is_called(
    called: int, cells: int, call: Call, reasons: tuple[CallReason, ...]
) -> None:
    answer = Interpreter(KNOWN, 0.005).of(called, called, cells)
    assert (answer.call, answer.reasons) == (call, reasons)


def test_a_negative_call_says_what_it_excludes() -> None:
    answer = Interpreter(KNOWN, 0.005).of(3, 9, 5000)
    assert answer.call == Call.NEGATIVE
    assert answer.none_above is not None
    assert answer.high is not None
    assert 0 < answer.none_above < 0.005
    assert answer.none_above <= answer.high
    assert answer.parasitaemia == 0.0


def test_where_slides_differ_too_much_no_number_of_cells_is_negative() -> None:
    answer = Interpreter(known(varied(0.0, 0.02), fixed(0.8)), 0.005).of(300, 300, 20_000)
    assert (answer.call, answer.reasons) == (Call.INDETERMINATE, (CallReason.RATES_TOO_HIGH,))
    assert answer.needed is None


@pytest.mark.parametrize("called", [0, 4000])
def test_where_healthy_cells_are_called_as_often_as_parasites_a_count_says_nothing(
    called: int,
) -> None:
    answer = Interpreter(known(fixed(0.8), fixed(0.7)), 0.005).of(called, called, 5000)
    assert (answer.call, answer.reasons) == (Call.INDETERMINATE, (CallReason.RATES_TOO_HIGH,))
    assert answer.parasitaemia is None


def test_with_as_many_cells_as_are_needed_no_slide_is_in_doubt() -> None:
    answers = Interpreter(KNOWN, 0.002)
    assert answers.needed is not None
    calls = [answers.of(called, called, answers.needed).call for called in range(60)]
    assert set(calls) == {Call.NEGATIVE, Call.POSITIVE}
    assert calls == sorted(calls)  # negative below, positive above


def test_without_error_rates_no_figure_is_given() -> None:
    answer = Interpreter(None, 0.005).of(50, 50, 5000)
    assert (answer.call, answer.reasons) == (Call.INDETERMINATE, (CallReason.RATES_UNKNOWN,))
    assert answer.parasitaemia is answer.low is answer.limit_of_detection is None


def test_a_slide_that_is_wrong_as_a_whole_has_no_figure() -> None:
    answer = Interpreter(KNOWN, 0.005).of(500, 500, 5000, ("shifted",))
    assert (answer.call, answer.reasons) == (Call.UNREADABLE, ("shifted",))
    assert answer.parasitaemia is None


def test_the_corrected_share_lies_in_its_interval() -> None:
    answers = Interpreter(known(varied(0.0, 0.02), varied(0.5, 0.9)), 0.005)
    for called in (0, 3, 30, 300, 3000, 5000):
        answer = answers.of(called, called, 5000)
        assert answer.low is not None
        assert answer.high is not None
        assert answer.parasitaemia is not None
        assert 0 <= answer.low <= answer.parasitaemia <= answer.high <= 1


def test_few_parasites_are_counted_by_one_threshold_and_many_by_the_other() -> None:
    answers = Interpreter(known(fixed(0.001), varied(0.3, 0.7)), 0.005)
    few, many = answers.of(20, 80, 5000), answers.of(1000, 1900, 5000)
    assert (few.call, few.by) == (Call.POSITIVE, CountedBy.COUNTING)
    assert (many.call, many.by) == (Call.POSITIVE, CountedBy.DENSE)
    assert many.parasitaemia == pytest.approx((1900 / 5000 - 0.02) / 0.93)
    assert answers.of(2, 80, 5000).by == CountedBy.COUNTING


def drawn(rng: np.random.Generator, slides: int) -> tuple[np.ndarray, ...]:
    """Rates of slides at two thresholds: what passes the higher one has passed the lower one."""
    false, found = rng.beta(0.6, 59.4, slides), rng.beta(30, 3, slides)
    return false, found, false * rng.beta(2, 8, slides), found * rng.beta(8, 4, slides)


def test_the_interval_of_whichever_threshold_counts_covers_the_truth() -> None:
    covered = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        cells = rng.integers(100, 800, 40)
        many_false, many_found, few_false, few_found = (
            predict_rate(rng.binomial(cells, rate), cells) for rate in drawn(rng, 40)
        )
        answers = Interpreter(
            KnownRates(
                ErrorRates(3.0, few_false, few_found), ErrorRates(1.0, many_false, many_found)
            ),
            0.01,
        )
        for share in np.repeat([0.003, 0.02, 0.05, 0.1, 0.3], 20):
            false, found, few, seen = (float(rate[0]) for rate in drawn(rng, 1))
            parasites = rng.binomial(5000, share)
            passing = rng.binomial(parasites, found), rng.binomial(5000 - parasites, false)
            called = rng.binomial(passing[0], seen / found) + rng.binomial(passing[1], few / false)
            answer = answers.of(int(called), int(sum(passing)), 5000)
            assert answer.low is not None
            assert answer.high is not None
            covered.append(answer.low <= share <= answer.high)
    assert 0.91 <= np.mean(covered) <= 0.98


WIDE = known(varied(0.0, 0.1), varied(0.3, 0.9))


@pytest.mark.parametrize(
    ("called", "call"),
    [
        (0, Call.INDETERMINATE),  # at a known laboratory it would be negative
        (100, Call.SUSPECTED),  # more than in healthy blood at home
        (1500, Call.POSITIVE),  # more than in healthy blood anywhere
        (4900, Call.SUSPECTED),  # more than a patient survives
    ],
)
def test_a_new_laboratory_is_positive_where_nothing_is_in_doubt_and_never_negative(
    called: int, call: Call
) -> None:
    at_home, elsewhere = (
        Interpreter(each, 0.005).of(called, called, 5000) for each in (KNOWN, WIDE)
    )
    answer = of_new(at_home, elsewhere, called, 5000)
    assert answer.call == call
    assert answer.reasons == (() if call == Call.POSITIVE else (CallReason.NEW,))
    assert answer.high == elsewhere.high


def test_a_few_inclusions_make_nobody_positive_where_no_false_one_was_ever_counted() -> None:
    never = Interpreter(known(varied(0.0, 0.0), varied(0.3, 0.9)), 0.005)
    few, many = (of_new(*[never.of(n, n, 400)] * 2, n, 400).call for n in (12, 20))
    assert (few, many) == (Call.SUSPECTED, Call.POSITIVE)
    assert of_new(*[never.of(12, 12, 40)] * 2, 12, 40).call == Call.SUSPECTED  # a clump
