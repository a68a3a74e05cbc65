import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.images.geometry import box_around, cut_out, rescaled, scaled, shape_of, size_at


@given(scale=st.floats(0.01, 100), x=st.floats(-1e4, 1e4))
def test_rescaling_there_and_back_moves_no_point(scale: float, x: float) -> None:
    points = np.array([[x, 1.0]])
    assert rescaled(rescaled(points, scale), 1 / scale) == pytest.approx(points, abs=1e-6)


def test_the_corners_of_a_picture_stay_its_corners() -> None:
    corners = np.array([[-0.5, -0.5], [9.5, 4.5]])
    assert rescaled(corners, np.array([2.0, 4.0])).tolist() == [[-0.5, -0.5], [19.5, 19.5]]


def test_a_box_lies_within_its_picture() -> None:
    outline = np.array([[-2.0, 3.5], [11.0, 20.0]])
    assert box_around(outline, (10, 12)) == (0, 3, 10, 9)
    assert box_around(outline + 100, (10, 12)) == (9, 11, 1, 1)


def test_the_shape_of_an_ellipse_and_of_one_with_a_bite() -> None:
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    ellipse = np.stack([50 * np.cos(angle), 30 * np.sin(angle)], axis=1).astype(np.float32)
    area, eccentricity, solidity = shape_of(ellipse)
    assert area == pytest.approx(np.pi * 50 * 30, rel=1e-3)
    assert eccentricity == pytest.approx(0.8, rel=1e-3)  # sqrt(1 - .6^2)
    assert solidity == pytest.approx(1, abs=1e-3)
    bitten = np.where(np.abs(angle - 1)[:, np.newaxis] < 0.3, 0.4, 1).astype(np.float32) * ellipse
    assert shape_of(bitten)[2] < 0.95
    assert np.isnan(shape_of(ellipse * np.float32([1, 0]))).all()


def test_a_picture_is_never_scaled_to_nothing() -> None:
    assert size_at((3, 400, 3), 0.01) == (4, 1)
    assert scaled(np.zeros((3, 400, 3), np.uint8), 0.01).shape == (1, 4, 3)


def test_a_tile_is_only_scaled() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    np.testing.assert_array_equal(cut_out(tile, None, 1.0), tile)
    assert cut_out(tile, None, 2.0).size == (80, 60)
