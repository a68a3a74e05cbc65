import numpy as np
import pytest

from tasks.counting.rates import NODES, predict_rate


def slides(
    rng: np.random.Generator, count: int, mean: float, precision: float
) -> tuple[np.ndarray, np.ndarray]:
    cells = rng.integers(100, 1000, count)
    return rng.binomial(cells, rng.beta(mean * precision, (1 - mean) * precision, count)), cells


def test_mean_and_deviation_are_recovered_from_many_slides() -> None:
    rng = np.random.default_rng(0)
    rate = predict_rate(*slides(rng, 400, 0.02, 50.0))
    assert rate.low < 0.02 < rate.high
    assert rate.mean == pytest.approx(0.02, rel=0.1)
    assert rate.deviation == pytest.approx(np.sqrt(0.02 * 0.98 / 51), rel=0.15)
    assert rate.nodes.mean() == pytest.approx(rate.mean, rel=0.05)
    assert rate.nodes.shape == (NODES,)
    assert (np.diff(rate.nodes) >= 0).all()


def test_the_mean_lies_in_its_interval_in_nineteen_of_twenty_trials() -> None:
    rng = np.random.default_rng(1)
    hit = []
    for _ in range(60):
        rate = predict_rate(*slides(rng, 25, 0.01, 80.0))
        hit.append(rate.low <= 0.01 <= rate.high)
    assert 0.86 <= np.mean(hit) <= 1.0


def test_no_error_among_few_cells_is_not_a_rate_of_zero() -> None:
    rate = predict_rate(np.zeros(3, np.int64), np.full(3, 100))
    assert rate.high > 1 / 300
    assert rate.nodes[-1] > 1e-3


def test_a_rate_needs_a_slide() -> None:
    with pytest.raises(ValueError, match="no slide has cells"):
        predict_rate(np.zeros(2, np.int64), np.zeros(2, np.int64))
