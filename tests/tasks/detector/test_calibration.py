from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from tasks.detector.calibration import (
    Calibration,
    abnormality,
    calibrate,
    group_weights,
    leave_group_out,
    log_distance,
    p_values,
    threshold,
)
from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import moments

Array = NDArray[np.floating]


@pytest.mark.parametrize(("offset", "deviation"), [(0, 1), (100, 0.1)])
@pytest.mark.parametrize("only", [None, 0], ids=["all classes", "one class"])
def test_leaving_a_group_out_equals_fitting_without_it(
    offset: float, deviation: float, only: int | None
) -> None:
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(6), 50), rng.integers(0, 2, 300)
    if only is not None:
        labels[groups == 2] = only
    features = offset + deviation * (labels[:, None] + rng.normal(size=(300, 8)))
    total = moments(features, labels, 2)
    for group in range(6):
        own = groups == group
        others = tied_gaussian(moments(features[~own], labels[~own], 2))
        expected = np.log(nearest_class_distance(others, features[own]))
        found = leave_group_out(total, features[own], labels[own])
        assert_allclose(found, expected, rtol=1e-8)


def test_a_group_that_alone_has_a_class_is_scored_by_the_other_classes() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(60, 3)), np.repeat([0, 1], [50, 10])
    others = tied_gaussian(moments(features[:50], labels[:50], 1))
    found = leave_group_out(moments(features, labels, 2), features[50:], labels[50:])
    assert_allclose(found, np.log(nearest_class_distance(others, features[50:])), rtol=1e-8)


def test_the_only_group_cannot_be_left_out() -> None:
    features, labels = np.random.default_rng(2).normal(size=(9, 3)), np.zeros(9, int)
    with pytest.raises(ValueError, match="no images"):
        leave_group_out(moments(features, labels, 1), features, labels)


def test_log_distances_are_finite_at_the_extremes() -> None:
    found = log_distance(np.array([0.0, 1.0, np.e, np.inf]))
    assert_allclose(found[1:3], [0, 1], atol=1e-15)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


@given(st.lists(st.integers(-3, 9), min_size=1))
def test_every_group_weighs_the_same_and_its_images_alike(names: list[int]) -> None:
    groups = np.array(names)
    weights = group_weights(groups)
    totals = [weights[groups == group].sum() for group in set(names)]
    assert_allclose(totals, 1 / len(totals))
    assert all(np.ptp(weights[groups == group]) == 0 for group in set(names))


def test_the_score_is_the_largest_standardised_log_distance() -> None:
    rng = np.random.default_rng(3)
    groups, x = np.array([0] * 30 + [1] * 5), rng.normal([1, -4], [2, 0.1], size=(35, 2))
    calibration = calibrate(x, groups)
    by_group = [x[:30], x[30:]]
    mean = np.mean([g.mean(axis=0) for g in by_group], axis=0)
    deviation = np.sqrt(np.mean([((g - mean) ** 2).mean(axis=0) for g in by_group], axis=0))
    new = rng.normal(size=(9, 2))
    expected = np.max((new - mean) / deviation, axis=1)
    assert_allclose(abnormality(calibration, new), expected, rtol=1e-10)
    scores, weights = abnormality(calibration, x), np.repeat([1 / 60, 1 / 10], [30, 5])
    assert_allclose(calibration.scores, np.sort(scores), rtol=1e-12)
    between = np.sort(scores)[:-1] + np.diff(np.sort(scores)) / 2
    reached = [weights[scores >= s].sum() for s in between]
    assert_allclose(p_values(calibration, between), (1 + 35 * np.array(reached)) / 36)


def calibration_of(scores: Array, groups: NDArray[np.integer]) -> Calibration:
    order = np.argsort(scores, kind="stable")
    return Calibration(np.zeros(1), np.ones(1), scores[order], group_weights(groups)[order])


@st.composite
def calibrations(draw: Callable) -> tuple[Array, NDArray[np.integer], Array]:
    """Scores full of ties, their groups, and new scores, which reach beyond them."""
    n = draw(st.integers(1, 30))
    scores = draw(arrays(np.float64, n, elements=st.integers(-3, 3)))
    groups = draw(arrays(np.int64, n, elements=st.integers(0, 4)))
    return scores, groups, np.array([-np.inf, -3.5, -3, -1, -0.5, 0, 2, 3, 3.5, np.inf])


@given(calibrations())
def test_p_values_equal_the_formula_fall_with_the_score_and_stay_in_range(
    given: tuple[Array, NDArray[np.integer], Array],
) -> None:
    scores, groups, new = given
    n, weights = len(scores), group_weights(groups)
    found = p_values(calibration_of(scores, groups), new)
    expected = [(1 + n * weights[scores >= s].sum()) / (n + 1) for s in new]
    assert_allclose(found, expected, rtol=1e-12)
    assert (np.diff(found) <= 0).all()
    assert found.max() <= 1
    assert_array_equal(found[-2:], 1 / (n + 1))  # beyond all of them, to the last bit


@given(calibrations(), st.sampled_from([1e-9, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0]))
def test_an_image_is_abnormal_exactly_from_the_threshold_on(
    given: tuple[Array, NDArray[np.integer], Array], alpha: float
) -> None:
    scores, groups, new = given
    calibration = calibration_of(scores, groups)
    at = threshold(calibration, alpha)
    for s in np.concatenate([scores, new[np.isfinite(new)]]):
        assert (p_values(calibration, np.array([s]))[0] <= alpha) == (s >= at)


@pytest.mark.parametrize("value", [0.3, -7.1, 123.456])
def test_a_tap_that_never_varied_is_silent(value: float) -> None:
    rng = np.random.default_rng(4)
    groups, x = rng.integers(0, 7, 50), rng.normal(size=(50, 1))
    constant = np.full_like(x, value)
    both, alone = calibrate(np.hstack([constant, x]), groups), calibrate(x, groups)
    shifted = np.hstack([constant + 0.01, x])
    expected = np.maximum(abnormality(alone, x), 0.01)
    assert_allclose(abnormality(both, shifted), expected, rtol=1e-9)


def test_laboratories_weigh_the_same_and_so_do_the_patients_of_each() -> None:
    patients = np.repeat([0, 1, 2, 3], [10, 20, 5, 5])
    laboratories = np.asarray(["a", "a", "a", "b"])[patients]
    weights = group_weights(patients, laboratories)
    by_patient = np.bincount(patients, weights)
    assert_allclose(by_patient, [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert_allclose(group_weights(patients), group_weights(patients, np.full(40, "a")))
