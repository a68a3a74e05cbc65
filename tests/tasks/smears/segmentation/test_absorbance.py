import numpy as np
import pytest

from tasks.smears.segmentation.absorbance import absorbance, stained
from tests.support.fields import GROUND, RED, disc, ground


def test_absorbance_is_how_much_darker_than_the_ground() -> None:
    field = ground()
    disc(field, 150, 120, 30, RED)
    found = absorbance(field)
    assert found.shape == field.shape
    np.testing.assert_allclose(found[120, 150], np.log(np.array(GROUND) / RED), atol=0.02)
    assert np.abs(found[:80]).max() < 0.02


@pytest.mark.parametrize("exposure", [0.4, 0.7, 1.0])
def test_uneven_light_is_no_stain(exposure: float) -> None:
    field = ground()
    for x, y in ((60, 60), (150, 120), (370, 280)):
        disc(field, x, y, 30, RED)
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    light = exposure * np.exp(-0.3 * (x * x + y * y) + 0.1 * x)[..., np.newaxis]
    found = absorbance((field * light).astype(np.uint8))
    for column, row in ((60, 60), (150, 120), (370, 280)):
        np.testing.assert_allclose(found[row, column], np.log(np.array(GROUND) / RED), atol=0.05)


def test_the_stop_of_an_eyepiece_is_no_light() -> None:
    field = ground()
    disc(field, 150, 120, 30, RED)
    field[np.hypot(*np.ogrid[-150:150, -200:200]) > 190] = 3
    found = absorbance(field)
    np.testing.assert_allclose(found[120, 150], np.log(np.array(GROUND) / RED), atol=0.03)
    assert not absorbance(field, np.zeros(field.shape[:2], bool)).any()


def test_stained_pixels_are_those_of_cells_even_beside_a_dark_nucleus() -> None:
    field = ground()
    disc(field, 150, 120, 30, RED)
    disc(field, 300, 200, 40, (30, 20, 80))
    mask = stained(np.linalg.norm(absorbance(field), axis=2))
    assert mask.sum() == pytest.approx(np.pi * (30**2 + 40**2), rel=0.05)


@pytest.mark.parametrize(
    "amount",
    [
        np.zeros((50, 50), np.float32),
        np.full((50, 50), 0.7, np.float32),
        np.random.default_rng(0).normal(0.1, 0.02, (50, 50)).astype(np.float32),
        np.random.default_rng(0).uniform(0, 2, (50, 50)).astype(np.float32),
    ],
    ids=["none", "even", "faint noise", "noise"],
)
def test_noise_is_no_stain(amount: np.ndarray) -> None:
    assert not stained(amount).any()
