import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.detector.calibration import calibrate, log_distance, standardised
from tasks.detector.detector import Detector, score
from tasks.detector.explanation import explain, location_shares
from tasks.detector.mahalanobis import class_distances, tied_gaussian
from tasks.detector.moments import moments

Features = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def maps() -> Features:
    """Maps of 40 images at two taps, whose places differ."""
    rng = np.random.default_rng(1)
    shapes = {"layer1": (40, 12, 8, 8), "layer2": (40, 20, 4, 4)}
    spread = {
        name: rng.normal(size=shape) * rng.uniform(0.5, 2, shape[1:])
        for name, shape in shapes.items()
    }
    return {name: (values + 1).astype(np.float32) for name, values in spread.items()}


@pytest.fixture(scope="module")
def pooled(maps: Features) -> Features:
    return {name: values.mean(axis=(2, 3)) for name, values in maps.items()}


@pytest.fixture(scope="module")
def detector(pooled: Features) -> Detector:
    labels = np.arange(40) % 2
    gaussians = {
        name: tied_gaussian(moments(features.astype(np.float64), labels, 2))
        for name, features in sorted(pooled.items())
    }
    distances = np.stack(
        [class_distances(g, pooled[n]).min(axis=1) for n, g in gaussians.items()], 1
    )
    return Detector(gaussians, calibrate(log_distance(distances), np.arange(40) // 4))


@pytest.mark.parametrize("locations", [(1, 1), (3, 5), (12, 12)])
@pytest.mark.parametrize("nearest", [0, 1])
def test_the_shares_of_the_locations_have_the_distance_as_their_mean(
    locations: tuple[int, int], nearest: int
) -> None:
    rng = np.random.default_rng(0)
    fitted = rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7))
    gaussian = tied_gaussian(moments(fitted, np.arange(60) % 2, 2))
    features = 3 * rng.normal(size=(7, *locations)) + 5
    shares = location_shares(gaussian, features, nearest)
    pooled = features.mean(axis=(1, 2))[None]
    assert shares.shape == locations
    assert shares.mean() == pytest.approx(class_distances(gaussian, pooled)[0, nearest], rel=1e-11)
    precision = np.linalg.inv(gaussian.factor @ gaussian.factor.T)
    mean = gaussian.means[nearest]
    first = (features[:, 0, 0] - mean) @ precision @ (pooled[0] - mean)
    assert shares[0, 0] == pytest.approx(first, rel=1e-8)


def test_a_cell_is_explained_by_the_tap_that_gave_its_score(
    detector: Detector, pooled: Features, maps: Features
) -> None:
    pooled, maps = ({name: v[:8] for name, v in each.items()} for each in (pooled, maps))
    scores = score(detector, pooled)
    deviations = standardised(detector.calibration, log_distance(scores.distances))
    for i, found in enumerate(explain(detector, pooled, maps)):
        assert np.allclose(found.deviations, deviations[i])
        assert found.deviations.max() == pytest.approx(scores.abnormality[i])
        assert found.tap == detector.taps[int(deviations[i].argmax())]
        distances = class_distances(detector.gaussians[found.tap], pooled[found.tap][i : i + 1])[0]
        assert found.nearest == distances.argmin()
        assert found.shares is not None
        # Features were pooled in 32 bits.
        assert found.shares.mean() == pytest.approx(distances.min(), rel=1e-3)


def test_a_tap_without_locations_is_explained_without_a_map() -> None:
    vectors = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32)
    gaussian = tied_gaussian(moments(vectors, np.arange(40) % 2, 2))
    distances = class_distances(gaussian, vectors).min(axis=1)
    calibration = calibrate(log_distance(distances)[:, None], np.arange(40))
    (found,) = explain(Detector({"head": gaussian}, calibration), {"head": vectors[:1]}, {})
    assert (found.tap, found.shares) == ("head", None)
