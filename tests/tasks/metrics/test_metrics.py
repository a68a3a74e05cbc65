import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from tasks.metrics import metrics

# Both sides have an image, and small whole scores make ties.
SIDES = st.integers(2, 25).flatmap(
    lambda n: st.tuples(
        arrays(bool, n).filter(lambda side: bool(side.any()) and not side.all()),
        arrays(np.float64, n, elements=st.integers(-4, 4)),
    )
)


@given(SIDES)
def test_diagnosis_metrics_equal_scikit_learn(sides: tuple[NDArray, NDArray]) -> None:
    truth, margin = sides
    labels = np.where(truth, metrics.POSITIVE, 1 - metrics.POSITIVE)
    keys = [str(row) for row in range(len(truth))]
    found = metrics.diagnosis_metrics(np.stack([margin, np.zeros(len(truth))], 1), labels, keys)
    expected = {
        "accuracy": accuracy_score(truth, margin > 0),
        "AUROC": roc_auc_score(truth, margin),
        "sensitivity": recall_score(truth, margin > 0),
        "specificity": recall_score(truth, margin > 0, pos_label=False),
    }
    assert {name: each["value"] for name, each in found.items()} == pytest.approx(expected)


def by_scikit_learn(
    abnormal: NDArray[np.bool_], scores: metrics.Float, weights: metrics.Float | None = None
) -> dict[str, float]:
    """What `detection` promises; an ordinary image is "positive" but for AUPR out."""
    fpr, tpr, _ = roc_curve(~abnormal, -scores, drop_intermediate=False, sample_weight=weights)
    return {
        "AUROC": roc_auc_score(abnormal, scores, sample_weight=weights),
        "TNR at 95% TPR": 1 - fpr[tpr >= 0.95 - 1e-9][0],
        "detection accuracy": ((tpr + 1 - fpr) / 2).max(),
        "AUPR in": average_precision_score(~abnormal, -scores, sample_weight=weights),
        "AUPR out": average_precision_score(abnormal, scores, sample_weight=weights),
    }


def only(found: dict[str, metrics.Float]) -> dict[str, float]:
    return {metric: value for metric, (value,) in found.items()}


@st.composite
def weighted_sides(draw: Callable) -> tuple[NDArray, NDArray, NDArray]:
    abnormal, scores = draw(SIDES)
    shape = (draw(st.integers(1, 4)), len(scores))
    return abnormal, scores, draw(arrays(np.float64, shape, elements=st.integers(0, 3)))


@given(weighted_sides())
def test_every_sample_weighs_images_as_scikit_learn_does(
    sides: tuple[NDArray, NDArray, NDArray],
) -> None:
    abnormal, scores, weights = sides
    found = metrics.detection(abnormal, scores, weights)
    for i, sample in enumerate(weights):
        row = {metric: values[i] for metric, values in found.items()}
        if sample[abnormal].any() and sample[~abnormal].any():
            some = sample > 0  # scikit-learn warns of what it divides by zero
            expected = by_scikit_learn(abnormal[some], scores[some], sample[some])
            assert row == pytest.approx(expected)
            times = sample.astype(int)
            repeated = metrics.detection(np.repeat(abnormal, times), np.repeat(scores, times))
            assert row == pytest.approx(only(repeated))
        else:
            assert all(math.isnan(value) for value in row.values())


def test_many_samples_are_each_as_if_they_were_alone() -> None:
    rng = np.random.default_rng(3)
    abnormal, scores = rng.random(80) < 0.4, rng.integers(0, 30, 80).astype(float)
    weights = rng.integers(0, 3, (4 * metrics.SAMPLES_AT_ONCE + 7, 80)).astype(float)
    found = metrics.detection(abnormal, scores, weights)
    for i, sample in enumerate(weights):
        alone = only(metrics.detection(abnormal, scores, sample[None]))
        assert {metric: values[i] for metric, values in found.items()} == pytest.approx(alone)
    assert len(np.unique(found["AUROC"])) > metrics.SAMPLES_AT_ONCE


@pytest.mark.parametrize(("strange", "tnr"), [(1, 1.0), (2, 0.0)])
def test_one_ordinary_image_in_twenty_may_be_refused(strange: int, tnr: float) -> None:
    abnormal = np.arange(30) >= 20
    scores = np.where(abnormal, 5.0, np.where(np.arange(30) < strange, 6.0, 1.0))
    assert only(metrics.detection(abnormal, scores))["TNR at 95% TPR"] == tnr
    # Of abnormal images none may be missed for it: the sides are not exchangeable.
    scores = np.where(abnormal, np.where(np.arange(30) >= 30 - strange, 0.0, 5.0), 1.0)
    found = only(metrics.detection(abnormal, scores))["TNR at 95% TPR"]
    assert found == pytest.approx(1 - strange / 10)


@pytest.mark.parametrize("side", [True, False])
def test_what_needs_both_sides_is_nan_where_one_is_empty(side: bool) -> None:
    positive, scores = np.full(4, side), np.arange(4.0)
    assert all(math.isnan(value) for value in only(metrics.detection(positive, scores)).values())
    labels = np.where(positive, metrics.POSITIVE, 1 - metrics.POSITIVE)
    found = metrics.diagnosis_metrics(np.stack([scores, scores[::-1]], 1), labels, ["one"] * 4)
    assert found["accuracy"]["value"] == 0.5
    assert found["AUROC"] == dict.fromkeys(metrics.Interval._fields)
    assert (found["sensitivity"]["value"] is None) != side
    assert (found["specificity"]["value"] is None) == side


CLUSTERS = st.lists(st.integers(-2, 6), min_size=1, max_size=20).map(np.array)


@given(CLUSTERS, st.integers(0, 5))
def test_bootstrap_samples_draw_whole_clusters(clusters: NDArray, seed: int) -> None:
    weights = metrics.resampled(clusters, 30, seed)
    assert weights.shape == (30, len(clusters))
    names = np.unique(clusters)
    by_cluster = np.stack([weights[:, clusters == name][:, 0] for name in names], axis=1)
    for name, times in zip(names, by_cluster.T, strict=True):
        assert (weights[:, clusters == name] == times[:, None]).all()
    # As many clusters as there are, with repetition, whatever their sizes.
    np.testing.assert_array_equal(by_cluster.sum(axis=1), len(names))
    np.testing.assert_array_equal(weights, metrics.resampled(clusters, 30, seed))


def test_an_interval_holds_the_middle_95_percent_of_its_finite_draws() -> None:
    draws = np.r_[np.nan, np.arange(1001.0), np.inf]
    assert metrics.interval(3, draws) == metrics.Interval(3.0, 25.0, 975.0)
    assert metrics.interval(3, np.array([7.0])) == (3.0, 7.0, 7.0)
    for nothing in ([], [np.nan, np.nan]):
        found = metrics.interval(0.5, np.array(nothing))
        assert found.value == 0.5
        assert math.isnan(found.low)
        assert math.isnan(found.high)


PATIENTS = np.repeat(np.arange(20), 15)


def test_an_interval_holds_its_value_and_is_wider_where_cells_of_a_patient_agree() -> None:
    right = np.random.default_rng(0).random(20)[PATIENTS] < 0.6
    by_patient = metrics.share(right, metrics.resampled(PATIENTS))
    by_image = metrics.share(right, metrics.resampled(np.arange(300)))
    for found in (by_patient, by_image):
        assert found.low < found.value < found.high
    # 15 cells that agree are worth one: the interval is about the square root of 15 wider.
    ratio = (by_patient.high - by_patient.low) / (by_image.high - by_image.low)
    assert ratio == pytest.approx(np.sqrt(15), rel=0.15)
