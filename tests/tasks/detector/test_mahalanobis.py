import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.covariance import oas

from tasks.detector.mahalanobis import (
    LEAST_SHRINKAGE,
    TiedGaussian,
    class_distances,
    condition_number,
    nearest_class_distance,
    oas_shrinkage,
    tied_gaussian,
)
from tasks.detector.moments import Moments, moments

Array = NDArray[np.floating]


def draw(
    n: int, width: int, classes: int = 2, offset: float = 0.0, deviation: float = 1.0
) -> tuple[Array, NDArray[np.integer]]:
    rng = np.random.default_rng(n + width)
    labels = np.arange(n) % classes
    mixing = rng.normal(size=(width, width)) / np.sqrt(width)
    spread = 2 * labels[:, None] + rng.normal(size=(n, width)) @ mixing
    return offset + deviation * spread, labels


def fitted(features: Array, labels: NDArray[np.integer], classes: int = 2) -> TiedGaussian:
    return tied_gaussian(moments(features, labels, classes))


def centre(features: Array, labels: NDArray[np.integer]) -> tuple[Array, Array]:
    """Class means, and the features without them."""
    means = np.stack([features[labels == c].mean(axis=0) for c in np.unique(labels)])
    return means, features - means[labels]


@pytest.mark.parametrize(("n", "width", "classes"), [(300, 12, 2), (40, 90, 3), (7, 5, 7)])
@pytest.mark.parametrize(("offset", "deviation"), [(0, 1), (100, 0.1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_equal_the_formula(
    n: int, width: int, classes: int, offset: float, deviation: float, dtype: type
) -> None:
    everything, labels = draw(n + 20, width, classes, offset, deviation)
    features, new = everything[:n].astype(dtype), everything[n:].astype(dtype)
    if n == classes:  # one image a class: only two of one class give it any scatter
        labels[n - 1] = 0
        classes -= 1
    gaussian = fitted(features, labels[:n], classes)
    means, centred = centre(features.astype(np.float64), labels[:n])
    covariance, shrinkage = oas(centred, assume_centered=True)
    assert gaussian.shrinkage == pytest.approx(shrinkage)
    expected = [
        [(x - m) @ np.linalg.solve(covariance, x - m) for m in means]
        for x in new.astype(np.float64)
    ]
    assert_allclose(class_distances(gaussian, new), expected, rtol=1e-6)
    assert_allclose(nearest_class_distance(gaussian, new), np.min(expected, axis=1), rtol=1e-6)


@pytest.mark.parametrize("width", [1, 5])
def test_a_multiple_of_the_identity_is_shrunk_onto_itself(width: int) -> None:
    assert oas_shrinkage(0.3 * np.eye(width), 1000.0) == 1.0


def test_memory_grows_with_images_times_features_only() -> None:
    images, width = 20_000, 64
    features, labels = draw(images, width)
    gaussian = fitted(features, labels)
    tracemalloc.start()
    nearest_class_distance(gaussian, features)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * features.nbytes  # images x images would be 300 times as much


def test_a_class_without_images_is_infinitely_far_and_changes_nothing() -> None:
    features, labels = draw(50, 6)
    without, among = fitted(features, labels), fitted(features, 2 * labels, 4)
    distances = class_distances(among, features)
    assert_array_equal(np.isinf(distances), [[False, True, False, True]] * 50)
    assert_allclose(distances[:, [0, 2]], class_distances(without, features), rtol=1e-12)


def test_a_class_of_one_image_is_where_that_image_is() -> None:
    features, _ = draw(30, 4, offset=100, deviation=0.1)
    gaussian = fitted(features, np.array([1] + [0] * 29))
    distances = class_distances(gaussian, features)
    assert distances[0, 1] == pytest.approx(0, abs=1e-18)
    assert np.isfinite(distances).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1], [0, 1, 2, 3, 4]])
def test_features_that_never_vary_are_refused(value: float, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="the same in every fitted image"):
        fitted(np.full((5, 3), value), np.array(labels), 5)


@pytest.mark.parametrize("value", [0.0, 0.1, 100.0])
def test_a_feature_that_never_varied_does_not_explode_a_score(value: float) -> None:
    features, labels = draw(400, 8)
    features[:, 3] = value
    alive = np.arange(8) != 3
    gaussian = fitted(features, labels)
    rest = nearest_class_distance(fitted(features[:, alive], labels), features[:, alive])
    assert_allclose(nearest_class_distance(gaussian, features), rest, rtol=0.2)
    # One average deviation along it weighs what the shrinkage says, and no more.
    scale = np.trace(moments(features, labels, 2).scatter.sum(axis=0)) / 400 / 8
    woken = features + np.sqrt(scale) * ~alive
    extra = nearest_class_distance(gaussian, woken) - nearest_class_distance(gaussian, features)
    assert_allclose(extra, 1 / gaussian.shrinkage, rtol=1e-6)
    assert gaussian.shrinkage > 0.001


def test_a_dead_unit_weighs_at_most_a_thousand_times_an_average_feature() -> None:
    billion = 1e9  # of images: the closed form alone would shrink by 3e-9
    scatter = np.diag([2 * billion, 0.0])[None]
    gaussian = tied_gaussian(Moments(np.array([billion]), np.zeros((1, 2)), scatter))
    assert gaussian.shrinkage == LEAST_SHRINKAGE
    (distance,) = nearest_class_distance(gaussian, np.array([[0.0, 1.0]]))
    assert np.sqrt(distance) == pytest.approx(1000)
    assert condition_number(gaussian) == pytest.approx(2 / LEAST_SHRINKAGE, rel=1e-5)
