import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from tasks.metrics.cross_validation import (
    Diagnosed,
    calibration_error,
    measured,
    metrics_by_stain,
    sensitivities,
)


def made(count: int = 2000, seed: int = 0) -> Diagnosed:
    """Calibrated diagnoses: labels are drawn from their own probabilities."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 3, count)
    probability = 1 / (1 + np.exp(-log_odds))
    return Diagnosed(
        rng.random(count) < probability,
        log_odds,
        probability,
        rng.integers(0, 20, count),
        np.repeat([0, 1], count // 2),
    )


def once(found: Diagnosed) -> NDArray[np.float64]:
    return np.ones((1, len(found.positive)))


@pytest.mark.parametrize("ties", [False, True])
def test_sensitivity_is_that_of_the_roc_curve(ties: bool) -> None:
    found = made()
    scores = found.log_odds.round() if ties else found.log_odds
    false, true, _ = roc_curve(found.positive, scores, drop_intermediate=False)
    rates = (0.3, 0.05, 0.01, 0.0)
    expected = [true[false <= rate].max() for rate in rates]
    assert sensitivities(found.positive, scores, once(found), rates)[0] == pytest.approx(expected)


def test_weights_count_images_again() -> None:
    found = made(300)
    times = np.random.default_rng(1).integers(0, 4, 300)
    rows = np.repeat(np.arange(300), times)
    again = Diagnosed(*(values[rows] for values in vars(found).values()))
    weighted, repeated = measured(found, times[None].astype(float)), measured(again, once(again))
    for name, value in weighted.items():
        assert value == pytest.approx(repeated[name]), name
    assert repeated["AUROC"][0] == pytest.approx(roc_auc_score(again.positive, again.log_odds))


def test_calibrated_probabilities_have_no_error_and_bold_ones_do() -> None:
    found = made(50_000)
    right = (found.log_odds > 0) == found.positive
    assert calibration_error(found.probability, right, once(found))[0] < 0.01
    bold = 1 / (1 + np.exp(-4 * found.log_odds))
    assert calibration_error(bold, right, once(found))[0] > 0.05
    sure = np.array([1.0, 1.0, 0.0, 0.0])
    wrong_half = np.array([True, False, True, False])
    assert calibration_error(sure, wrong_half, np.ones((1, 4)))[0] == 0.5


def test_rows_are_of_all_images_and_of_each_stain() -> None:
    found = made()
    rows = metrics_by_stain(found, repeats=50)
    assert {row["stain"] for row in rows} == {None, 0, 1}
    assert len({row["metric"] for row in rows}) == 6 == len(rows) / 3
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"] or row["metric"] == "calibration error"
        assert row["images"] == (2000 if row["stain"] is None else 1000)


def test_one_stain_is_not_told_apart_and_one_class_has_no_curve() -> None:
    found = made(100)
    alone = Diagnosed(
        np.ones(100, bool), found.log_odds, found.probability, found.patients, np.zeros(100, int)
    )
    rows = metrics_by_stain(alone, repeats=20)
    assert {row["stain"] for row in rows} == {None}
    values = {row["metric"]: row["value"] for row in rows}
    assert values["AUROC"] is None
    assert values["sensitivity at 0.01"] is None
    assert values["accuracy"] is not None
