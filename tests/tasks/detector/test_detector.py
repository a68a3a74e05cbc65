import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from tasks.detector.calibration import abnormality, calibrate, log_distance, p_values
from tasks.detector.detector import Detector, fit_gaussians, score
from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import moments, statistics_of
from tasks.detector.slides.groups import GroupKey

# In rising order, although "layer2.1/raw" comes before "layer2/raw".
WIDTHS = {"layer2": 3, "layer2.1": 5, "stem": 2}
FITTED, CLASSES = 120, 2
ONE_SLIDE = [GroupKey("night", "", "s")]

Taps = dict[str, NDArray[np.float32]]


def draw(n: int, seed: int = 0) -> Taps:
    rng = np.random.default_rng(seed)
    return {
        name: (100 + 0.1 * scale * rng.normal(size=(n, width))).astype(np.float32)
        for scale, (name, width) in enumerate(WIDTHS.items(), start=1)
    }


def fitted() -> Detector:
    taps, labels = draw(FITTED), np.arange(FITTED) % CLASSES
    gaussians = fit_gaussians(statistics_of(taps, labels, CLASSES, ONE_SLIDE * FITTED))
    columns = [nearest_class_distance(gaussians[name], taps[name]) for name in sorted(taps)]
    distances = log_distance(np.stack(columns, axis=1))
    return Detector(gaussians, calibrate(distances, np.arange(FITTED) // 6))


def test_gaussians_are_those_of_raw_features_in_the_order_of_the_taps_names() -> None:
    taps, labels = draw(FITTED), np.arange(FITTED) % CLASSES
    gaussians = fit_gaussians(
        statistics_of(dict(reversed(taps.items())), labels, CLASSES, ONE_SLIDE * FITTED)
    )
    assert list(gaussians) == list(WIDTHS)
    for name, gaussian in gaussians.items():
        expected = tied_gaussian(moments(taps[name], labels, CLASSES))
        assert_array_equal(gaussian.means, expected.means)
        assert_array_equal(gaussian.factor, expected.factor)


def test_a_score_is_made_of_every_taps_distance_to_the_nearest_class() -> None:
    detector, new = fitted(), draw(9, seed=1)
    found = score(detector, dict(reversed(new.items())))
    distances = np.stack(
        [nearest_class_distance(detector.gaussians[name], new[name]) for name in WIDTHS], axis=1
    )
    assert detector.taps == list(WIDTHS)
    assert_allclose(found.distances, distances, rtol=1e-12)
    expected = abnormality(detector.calibration, np.log(distances))
    assert_allclose(found.abnormality, expected, rtol=1e-12)
    assert_allclose(found.p_value, p_values(detector.calibration, expected))


@pytest.mark.parametrize("name", WIDTHS)
def test_one_abnormal_tap_makes_an_abnormal_image(name: str) -> None:
    usual, new = score(fitted(), draw(1, seed=2)), draw(1, seed=2)
    new[name] = new[name] + 10
    found = score(fitted(), new)
    assert found.abnormality[0] > usual.abnormality[0] + 1
    assert found.p_value[0] == 1 / (FITTED + 1) < usual.p_value[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", WIDTHS)
def test_features_that_are_not_finite_are_as_abnormal_as_can_be(name: str, bad: float) -> None:
    new = draw(3, seed=3)
    usual = score(fitted(), new)
    new[name][1, 0] = bad
    with np.errstate(invalid="ignore"):
        found = score(fitted(), new)
    assert found.p_value[1] == 1 / (FITTED + 1)
    assert_allclose(found.p_value[[0, 2]], usual.p_value[[0, 2]])


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_images_are_scored_alike_in_batches_of_any_size(rows: int) -> None:
    detector, new = fitted(), draw(20, seed=4)
    some, every = score(detector, {k: v[:rows] for k, v in new.items()}), score(detector, new)
    assert_allclose(some.distances, every.distances[:rows], rtol=1e-9)
    assert_allclose(some.abnormality, every.abnormality[:rows], rtol=1e-9)
    assert_allclose(some.p_value, every.p_value[:rows], rtol=1e-9)


def test_a_detector_comes_back_from_arrays_and_scores_the_same_to_the_last_bit() -> None:
    detector, new = fitted(), draw(9, seed=5)
    arrays = detector.to_arrays()
    again = Detector.from_arrays(dict(sorted(arrays.items(), reverse=True)))
    assert again.taps == detector.taps
    assert {k: v.tobytes() for k, v in again.to_arrays().items()} == {
        k: v.tobytes() for k, v in arrays.items()
    }
    for name, values in vars(score(again, new)).items():
        assert_array_equal(values, getattr(score(detector, new), name))


@pytest.mark.parametrize(("value", "rows"), [(7.0, FITTED), (None, 0)])
def test_a_tap_that_cannot_be_fitted_is_named(value: float | None, rows: int) -> None:
    taps = {name: features[:rows] for name, features in draw(FITTED).items()}
    if value is not None:
        taps["layer2.1"] = np.full_like(taps["layer2.1"], value)
    message = (
        "tap layer2.1: the features are the same" if rows else "tap layer2: there are no images"
    )
    with pytest.raises(ValueError, match=message):
        fit_gaussians(statistics_of(taps, np.zeros(rows, int), CLASSES, ONE_SLIDE * rows))
