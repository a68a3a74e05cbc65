"""Errors that calibrated probabilities tell, against counts of a truth drawn by them."""

import numpy as np
import pytest

from tasks.smears.reports.night.judged import expected_errors


def drawn(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of cells, whether each is called, and its truth."""
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.3, 1.2, n)
    return probability, probability >= 0.7, rng.random(n) < probability


def estimated(p: np.ndarray, called: np.ndarray) -> dict[str, float]:
    cells = [np.ones(len(p)), p, p * (1 - p)]
    return expected_errors(*(each[some].sum() for each in cells for some in (called, ~called)))


def test_expected_errors_are_those_of_the_truth() -> None:
    inside = []
    for seed in range(100):
        probability, called, truth = drawn(seed)
        expected = estimated(probability, called)
        found, right = (truth & called).sum() / truth.sum(), (truth == called).mean()
        inside.append(
            expected["expected_sensitivity_low"] <= found <= expected["expected_sensitivity_high"]
        )
        inside.append(
            expected["expected_accuracy_low"] <= right <= expected["expected_accuracy_high"]
        )
        assert expected["expected_false_calls"] == pytest.approx((called & ~truth).sum(), abs=60)
        assert expected["expected_missed"] == pytest.approx((~called & truth).sum(), abs=90)
    assert 0.91 <= np.mean(inside) <= 0.99


def test_where_no_parasite_is_expected_there_is_no_sensitivity() -> None:
    expected = estimated(np.zeros(3), np.zeros(3, bool))
    assert "expected_sensitivity" not in expected
    assert expected["expected_accuracy"] == 1.0
