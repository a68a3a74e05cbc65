import numpy as np
import pytest
import torch
from PIL import Image

from tasks.detector.calibration import calibrate, log_distance, standardised
from tasks.detector.detector import Detector, score
from tasks.detector.explanation import explain, location_shares
from tasks.detector.mahalanobis import class_distances, tied_gaussian
from tasks.detector.moments import moments
from tasks.network.backbones import build
from tasks.network.classifier import PENULTIMATE, Classifier, NetworkSpec, tap_widths, with_taps
from tasks.network.inference import inference, taps_and_maps
from tasks.visualisation.thumbnails import heat_picture


@pytest.fixture(scope="module")
def classifier(spec: NetworkSpec) -> Classifier:
    torch.manual_seed(0)
    return build(spec).eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Images of noise, smooth at the left, where every place differs from every other."""
    images = np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3))
    images[:, :, :16] = images[:, :1, :1, :1]
    return images.astype(np.uint8)


@pytest.fixture(scope="module")
def detector(classifier: Classifier, pixels: np.ndarray) -> Detector:
    taps, _ = inference(classifier).run(pixels)
    labels = np.arange(len(pixels)) % 2
    gaussians = {
        name: tied_gaussian(moments(taps[name].numpy().astype(np.float64), labels, 2))
        for name in sorted(taps)
    }
    distances = np.stack(
        [class_distances(g, taps[n].numpy()).min(axis=1) for n, g in gaussians.items()], 1
    )
    return Detector(gaussians, calibrate(log_distance(distances), np.arange(len(pixels)) // 4))


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


def test_maps_have_the_pooled_features_as_their_mean(
    classifier: Classifier, pixels: np.ndarray
) -> None:
    pooled, maps = taps_and_maps(classifier, pixels[:5])
    features, _ = inference(classifier).run(pixels[:5])
    assert pooled.keys() == maps.keys() == features.keys()
    for name, width in tap_widths(classifier).items():
        assert maps[name].shape[:2] == (5, width)
        assert np.allclose(pooled[name], features[name], rtol=1e-4, atol=1e-5)
        assert np.allclose(maps[name].mean(axis=(2, 3)), features[name], rtol=1e-4, atol=1e-5)


def test_a_cell_is_explained_by_the_tap_that_gave_its_score(
    classifier: Classifier, detector: Detector, pixels: np.ndarray
) -> None:
    pooled, maps = taps_and_maps(classifier, pixels[:8])
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


def test_a_tap_without_locations_is_explained_without_a_map(
    classifier: Classifier, pixels: np.ndarray
) -> None:
    tapped = with_taps(classifier, (PENULTIMATE,))
    pooled, maps = taps_and_maps(tapped, pixels)
    gaussian = tied_gaussian(moments(pooled[PENULTIMATE], np.arange(len(pixels)) % 2, 2))
    distances = class_distances(gaussian, pooled[PENULTIMATE]).min(axis=1)
    calibration = calibrate(log_distance(distances)[:, None], np.arange(len(pixels)))
    (found,) = explain(
        Detector({PENULTIMATE: gaussian}, calibration), {PENULTIMATE: pooled[PENULTIMATE][:1]}, maps
    )
    assert maps == {}
    assert (found.tap, found.shares) == (PENULTIMATE, None)


def test_heat_is_lightest_where_most_of_the_distance_arises() -> None:
    shares = np.full((4, 4), -1.0)
    shares[0, 3] = 50.0
    picture = heat_picture(Image.new("RGB", (64, 48), (120, 60, 60)), shares)
    assert picture.size == (64, 48)
    light = np.asarray(picture.convert("L"), float)
    assert light[4, 58] == light.max()
    assert light[40, 8] < light[4, 58] / 3


def test_what_is_nearer_everywhere_has_no_heat() -> None:
    image = Image.new("RGB", (8, 8), (200, 200, 200))
    light = np.asarray(heat_picture(image, np.full((2, 2), -3.0)).convert("L"))
    assert light.max() == light.min() < 100
