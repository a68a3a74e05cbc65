"""Errors that calibrated probabilities tell, against counts of a truth drawn by them."""

import numpy as np
import pytest

from tasks.smears.counting.expected import ProbabilitySums


def drawn(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of cells, whether each is called, and its truth."""
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.3, 1.2, n)
    return probability, probability >= 0.7, rng.random(n) < probability


def sums(probability: np.ndarray, called: np.ndarray) -> ProbabilitySums:
    return ProbabilitySums.of(probability, called, np.zeros(len(called), np.intp), 1)


def test_expected_errors_are_those_of_the_truth() -> None:
    inside = []
    for seed in range(100):
        probability, called, truth = drawn(seed)
        expected = sums(probability, called).expected(0)
        found, right = (truth & called).sum() / truth.sum(), (truth == called).mean()
        inside.append(expected.sensitivity_low <= found <= expected.sensitivity_high)
        inside.append(expected.accuracy_low <= right <= expected.accuracy_high)
        assert expected.false_calls == pytest.approx((called & ~truth).sum(), abs=60)
        assert expected.missed == pytest.approx((~called & truth).sum(), abs=90)
    assert 0.91 <= np.mean(inside) <= 0.99


def test_sums_of_parts_add_up_and_cells_without_a_probability_are_left_out() -> None:
    probability, called, _ = drawn(0)
    probability[5] = np.nan
    whole = sums(probability, called)
    parts = sums(probability[:70], called[:70]) + sums(probability[70:], called[70:])
    for one, other in zip(vars(whole).values(), vars(parts).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert whole.called[0] + whole.others[0] == len(called) - 1


def test_where_no_parasite_is_expected_there_is_no_sensitivity() -> None:
    expected = sums(np.zeros(3), np.zeros(3, bool)).expected(0)
    assert np.isnan(expected.sensitivity)
    assert expected.accuracy == 1.0
