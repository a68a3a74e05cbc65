"""The meaning of a count, against simulations whose truth is known."""

from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import binom

from tasks.smears.counting import interpretation
from tasks.smears.counting.rates import NODES, Rate, predict_rate
from tests.support.rates import fixed

CELLS = 5000
KINDS = ((0.002, 60.0), (0.01, 60.0), (0.005, 500.0))  # means and precisions of false positives


@lru_cache(maxsize=8)
def rates(mean: float, precision: float, seed: int) -> interpretation.ErrorRates:
    rng = np.random.default_rng(seed)
    cells = rng.integers(100, 800, 40)
    false = rng.beta(mean * precision, (1 - mean) * precision, 40)
    found = rng.beta(16, 4, 40)
    return interpretation.ErrorRates(
        0.0,
        predict_rate(rng.binomial(cells, false), cells),
        predict_rate(rng.binomial(cells, found), cells),
    )


def covered(mean: float, precision: float, share: float, trials: int) -> list[bool]:
    """Intervals of slides hold their parasitaemia, of rates known from 40 other slides."""
    rng = np.random.default_rng(7)
    found = []
    for seed in range(4):
        known = rates(mean, precision, seed)
        for _ in range(trials // 4):
            false = rng.beta(mean * precision, (1 - mean) * precision)
            called = rng.binomial(CELLS, share * rng.beta(16, 4) + (1 - share) * false)
            low, high = interpretation.interval(int(called), CELLS, known)
            found.append(low <= share <= high)
    return found


def test_intervals_cover_no_parasites_and_fewer_than_can_be_told_from_none() -> None:
    """Only too high a count can miss them."""
    for mean, precision in KINDS:
        for share in (0.0001, 0.0003, 0.001):
            assert np.mean(covered(mean, precision, share, 60)) >= 0.93
    assert np.mean(covered(0.01, 60.0, 0.0, 200)) >= 0.96


def test_with_rates_that_are_known_the_limits_are_those_of_a_binomial() -> None:
    known = interpretation.ErrorRates(0.0, fixed(0.001), fixed(0.8))
    blank = interpretation.blank_count(CELLS, known.false.nodes)
    assert blank == binom.ppf(0.95, CELLS, 0.001)
    limit = interpretation.detection_limit(CELLS, known)
    assert limit is not None
    q = limit * 0.8 + (1 - limit) * 0.001
    assert binom.sf(blank, CELLS, q) == pytest.approx(0.95, abs=1e-6)
    needed = interpretation.cells_needed(limit, known)
    assert needed is not None
    assert interpretation.detection_limit(needed, known) <= limit  # type: ignore[operator]
    assert needed <= 1.1 * CELLS


def test_a_healthy_slide_is_above_blank_in_one_of_twenty_cases() -> None:
    rng = np.random.default_rng(3)
    above = []
    for seed in range(4):
        known = rates(0.01, 60.0, seed)
        called = rng.binomial(CELLS, rng.beta(0.6, 59.4, 500))
        above.append(np.mean(called > interpretation.blank_count(CELLS, known.false.nodes)))
    assert np.mean(above) == pytest.approx(0.05, abs=0.03)


def test_where_slides_differ_more_cells_do_not_help_for_ever() -> None:
    known = rates(0.01, 60.0, 0)
    assert interpretation.cells_needed(0.001, known) is None
    most = interpretation.detection_limit(1_000_000, known)
    assert most is not None
    assert most > 0.01


def test_enough_cells_with_as_large_a_share_called_decide_and_none_if_none_is() -> None:
    known = interpretation.ErrorRates(0.0, fixed(0.001), fixed(0.8))
    needed = interpretation.cells_to_decide(1, 100, known)
    assert needed is not None
    assert needed // 100 > interpretation.blank_count(needed, known.false.nodes)
    assert interpretation.cells_to_decide(0, 100, known) is None
    assert interpretation.cells_to_decide(1, 10_000, known) is None


def test_counts_are_corrected_for_both_rates() -> None:
    known = interpretation.ErrorRates(0.0, fixed(0.01), fixed(0.81))
    assert interpretation.corrected(50, CELLS, known) == 0.0
    assert interpretation.corrected(10, CELLS, known) == 0.0
    assert interpretation.corrected(450, CELLS, known) == pytest.approx(0.1)
    assert interpretation.corrected(CELLS, CELLS, known) == 1.0


def test_a_few_slides_of_many_errors_do_not_pull_the_count_of_all_others_down() -> None:
    nodes = np.where(np.arange(NODES) < 90, 0.001, 0.1)
    skewed = Rate(float(nodes.mean()), 0.0, 0.1, 0.03, 9, 900, nodes)
    known = interpretation.ErrorRates(0.0, skewed, fixed(0.801))
    assert interpretation.corrected(45, CELLS, known) == pytest.approx(0.01)


def test_no_call_bounds_what_may_be_there() -> None:
    known = interpretation.ErrorRates(0.0, fixed(1e-7), fixed(1.0))
    # The rule of three.
    assert interpretation.upper_bound(0, CELLS, known) == pytest.approx(3 / CELLS, rel=0.01)
    assert interpretation.interval(0, CELLS, known)[0] == 0.0
    assert interpretation.interval(CELLS, CELLS, known)[1] == 1.0


def test_fewer_calls_than_healthy_slides_have_do_not_exclude_more_parasites() -> None:
    expected = interpretation.ErrorRates(0.0, fixed(0.002), fixed(0.8))
    none = interpretation.ErrorRates(0.0, fixed(1e-9), fixed(0.8))
    # Such counts are improbable at any parasitaemia, none included.
    for called in (0, 1, 3, 10):
        assert interpretation.upper_bound(
            called, CELLS, expected
        ) >= 0.999 * interpretation.upper_bound(0, CELLS, none)
    assert interpretation.upper_bound(0, CELLS, expected) == pytest.approx(
        3 / 0.8 / CELLS, rel=0.01
    )
    assert interpretation.interval(0, CELLS, expected)[0] == 0.0


def test_a_count_that_no_rate_allows_excludes_nothing() -> None:
    known = interpretation.ErrorRates(0.0, fixed(0.5), fixed(0.9))
    assert interpretation.upper_bound(0, 5000, known) == 1.0
    assert interpretation.interval(0, 5000, known) == (0.0, 1.0)


@pytest.mark.parametrize("called", [0, 5, 40])
def test_rates_are_paired_as_if_independent_even_where_few_of_them_explain_a_count(
    called: int,
) -> None:
    for mean, precision in KINDS:
        known = rates(mean, precision, 0)
        false, found = np.meshgrid(known.false.nodes, known.found.nodes)
        x = interpretation.upper_bound(called, CELLS, known)

        def chance(x: float, false: np.ndarray = false, found: np.ndarray = found) -> float:
            q = x * found + (1 - x) * false
            fewer = binom.cdf(called - 1, CELLS, q) + binom.cdf(called, CELLS, q)
            return float(fewer.mean())

        assert chance(x) / chance(0.0) == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize("cells", [1, 20, 5_000, interpretation.MOST_CELLS])
def test_small_and_large_counts_have_the_tail_of_a_mixture_of_binomials(cells: int) -> None:
    q = np.concatenate([[0.0], np.geomspace(1e-7, 0.9, 40), [1.0]])
    for called in (0, 1, interpretation.FEW, interpretation.FEW + 1, 2 * interpretation.FEW):
        if called <= cells:
            expected = (binom.cdf(called - 1, cells, q) + 0.5 * binom.pmf(called, cells, q)).mean()
            assert interpretation._at_most(called, cells, q) == pytest.approx(expected, rel=1e-6)
