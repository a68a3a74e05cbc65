import numpy as np
import pytest
from scipy.special import expit, logit

from tasks.smears.counting import interpretation, rates


def slides(
    rng: np.random.Generator, count: int, mean: float, precision: float
) -> tuple[np.ndarray, np.ndarray]:
    cells = rng.integers(100, 1000, count)
    return rng.binomial(cells, rng.beta(mean * precision, (1 - mean) * precision, count)), cells


def test_mean_and_deviation_are_recovered_from_many_slides() -> None:
    rng = np.random.default_rng(0)
    rate = rates.predict_rate(*slides(rng, 400, 0.02, 50.0))
    assert rate.low < 0.02 < rate.high
    assert rate.mean == pytest.approx(0.02, rel=0.1)
    assert rate.deviation == pytest.approx(np.sqrt(0.02 * 0.98 / 51), rel=0.15)
    assert rate.nodes.mean() == pytest.approx(rate.mean, rel=0.05)
    assert rate.nodes.shape == (rates.NODES,)
    assert (np.diff(rate.nodes) >= 0).all()


def test_the_mean_lies_in_its_interval_in_nineteen_of_twenty_trials() -> None:
    rng = np.random.default_rng(1)
    hit = []
    for _ in range(60):
        rate = rates.predict_rate(*slides(rng, 25, 0.01, 80.0))
        hit.append(rate.low <= 0.01 <= rate.high)
    assert 0.86 <= np.mean(hit) <= 1.0


def test_no_error_among_few_cells_is_not_a_rate_of_zero() -> None:
    rate = rates.predict_rate(np.zeros(3, np.int64), np.full(3, 100))
    assert rate.high > 1 / 300
    assert rate.nodes[-1] > 1e-3


def test_a_rate_needs_a_slide() -> None:
    with pytest.raises(ValueError, match="no slide has cells"):
        rates.predict_rate(np.zeros(2, np.int64), np.zeros(2, np.int64))


def fitted_slides() -> tuple[np.ndarray, np.ndarray]:
    return slides(np.random.default_rng(3), 30, 0.004, 150.0)


def test_a_laboratory_without_slides_is_expected_around_fitted_ones_and_less_certainly() -> None:
    none = np.zeros(0, np.int64)
    rate = rates.predict_rate(none, none, rates.laboratory_prior(*fitted_slides()))
    fitted = rates.predict_rate(*fitted_slides())
    assert (rate.slides, rate.cells) == (0, 0)
    assert rate.median == pytest.approx(fitted.median, rel=0.6)
    assert rate.low < fitted.low / 5
    assert rate.high > fitted.high * 5


@pytest.mark.parametrize("mean", [0.0005, 0.05])
def test_a_laboratory_that_is_unlike_fitted_ones_is_known_by_its_own_slides(mean: float) -> None:
    cells = np.full(40, 3000)
    rng = np.random.default_rng(4)
    hits = rng.binomial(cells, rng.beta(mean * 150, (1 - mean) * 150, 40))
    prior = rates.laboratory_prior(*fitted_slides())
    own, leaning = rates.predict_rate(hits, cells), rates.predict_rate(hits, cells, prior)
    assert leaning.mean == pytest.approx(own.mean, rel=0.1)
    few = rates.predict_rate(hits[:5], cells[:5], prior)
    assert few.low < leaning.mean < few.high
    assert few.high / few.low > leaning.high / leaning.low


def test_negative_slides_of_a_laboratory_stay_below_its_limit_of_blank() -> None:
    """Of laboratories as different as they are thought, 95% of slides do, however few are known."""
    rng = np.random.default_rng(5)
    prior, fitted = rates.laboratory_prior(*fitted_slides()), rates.predict_rate(*fitted_slides())
    for known in (1, 3, 10):
        above = []
        for _ in range(40):
            mean = expit(logit(0.004) + rates.LABORATORIES * rng.normal())
            counts = rng.binomial(3000, rng.beta(mean * 150, (1 - mean) * 150, known + 50))
            own = rates.predict_rate(counts[:known], np.full(known, 3000), prior)
            blanks = [interpretation.blank_count(3000, each.nodes) for each in (own, fitted)]
            above.append([np.mean(counts[known:] > blank) for blank in blanks])
        by_laboratory, by_fitted = np.mean(above, axis=0)
        assert by_laboratory <= 0.05
        assert by_fitted > 3 * by_laboratory
