import numpy as np
import pytest

from tasks.detector.calibration import abnormality, p_values
from tasks.second_look.stability import calibrate_stability, log_odds, losses, with_noise


def test_log_odds_are_those_of_the_probability() -> None:
    logits = np.asarray([[1.0, 2.0, 0.5], [0.0, 0.0, -300.0]])
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = log_odds(logits, np.asarray([1, 0]))
    wanted = [np.log(p / (1 - p)) for p in (chances[0, 1], chances[1, 0])]
    np.testing.assert_allclose(found, wanted, atol=1e-100)


def test_log_odds_do_not_saturate() -> None:
    np.testing.assert_allclose(log_odds(np.asarray([[500.0, -500.0]]), np.asarray([0])), [1000.0])


def test_a_loss_is_of_the_class_that_was_diagnosed_whatever_comes_after() -> None:
    first = np.asarray([[3.0, 0.0], [0.0, 1.0]])
    after = np.asarray([[[-1.0, 0.0], [3.0, 0.0]], [[0.0, 4.0], [0.0, 1.0]]])
    np.testing.assert_allclose(losses(first, after), [[4.0, 0.0], [-3.0, 0.0]])


def test_noise_has_its_size_and_is_each_image_s_own() -> None:
    images = np.full((3, 8, 8, 3), 100, np.uint8)
    images[0] = 1
    noisy = with_noise(images, 4, np.asarray([5, 6, 7]))
    assert set(np.unique(noisy[1])) == {96, 104}
    assert set(np.unique(noisy[0])) == {0, 5}
    np.testing.assert_array_equal(with_noise(images[1:2], 4, np.asarray([6]))[0], noisy[1])
    assert (noisy[1] != noisy[2]).any()
    np.testing.assert_array_equal(with_noise(images, 0, np.asarray([5, 6, 7])), images)
    mean = with_noise(np.full((1, 96, 96, 3), 100, np.uint8), 8, np.asarray([0])).mean()
    assert mean == pytest.approx(100, abs=0.3)


def test_at_its_level_so_many_images_as_they_are_are_unstable_and_attacked_ones_are_all() -> None:
    rng, n = np.random.default_rng(0), 4000
    patients = np.arange(n) % 20

    def ordinary() -> np.ndarray:
        spread = np.asarray([2.0, 1.0, 0.5, 0.5])[:, None]  # noise narrows what filters do
        return rng.normal([1.0, 3.0], spread, (n, 4, 2))

    calibration = calibrate_stability(ordinary(), patients)
    assert len(calibration.scores) == n
    np.testing.assert_allclose(calibration.mean, [1.0, 3.0], atol=0.05)
    found = p_values(calibration, abnormality(calibration, ordinary()[:, 0]))
    assert np.mean(found <= 0.05) == pytest.approx(0.05, abs=0.012)
    attacked = rng.normal([1.0, 20.0], [1.0, 2.0], (50, 2))
    assert (p_values(calibration, abnormality(calibration, attacked)) <= 0.05).all()
