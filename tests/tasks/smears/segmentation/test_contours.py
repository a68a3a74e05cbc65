import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.draw import polygon

from tasks.smears.segmentation import contours

RADII = np.array([12.0, 16.0, 20.0])


def edges_of(*ellipses: tuple[float, float, float, float]) -> contours.Edges:
    """Edges of dark ellipses: x, y and both half axes in pixels."""
    y, x = np.mgrid[:120, :160].astype(np.float32)
    amount = np.zeros((120, 160), np.float32)
    for cx, cy, a, b in ellipses:
        amount += np.hypot((x - cx) / a, (y - cy) / b) < 1
    return contours.edges(amount, amount > 0, 32)


def find(edge: contours.Edges) -> NDArray[np.float64]:
    return contours.seeds(edge, RADII, least=0.3, apart=8, most=1000)


def test_an_edge_points_from_dark_to_bright() -> None:
    edge = edges_of((80, 60, 16, 16))
    assert edge[0, 60, 96] > 0.5
    assert edge[0, 60, 64] < -0.5
    assert edge[1, 76, 80] > 0.5
    assert np.abs(edge[:, 60, 80]).max() < 0.01
    assert np.linalg.norm(edge, axis=0).max() < 1


def test_a_ring_is_found_at_its_middle_with_its_radius() -> None:
    found = find(edges_of((50, 60, 16, 16), (110, 40, 20, 20)))
    for x, y, radius in ((50, 60, 16), (110, 40, 20)):
        off = np.hypot(found[:, 0] - x, found[:, 1] - y)
        assert ((off < 2) & (found[:, 2] == radius)).any()


def test_a_bright_spot_is_no_ring() -> None:
    assert len(find(-edges_of((80, 60, 16, 16)))) == 0


def test_no_seed_is_no_outline() -> None:
    points, along = contours.trace(edges_of((80, 60, 16, 16)), np.empty((0, 3)))
    assert points.shape == (0, contours.ANGLES, 2)
    assert along.shape == (0, contours.ANGLES)


@pytest.mark.parametrize("half_axes", [(16, 16), (20, 14), (13, 18)])
@pytest.mark.parametrize("off", [(0, 0), (3, -2)])
def test_an_outline_follows_an_ellipse(
    half_axes: tuple[float, float], off: tuple[float, float]
) -> None:
    a, b = half_axes
    edge = edges_of((80, 60, a, b))
    (points,), (along,) = contours.trace(edge, np.array([[80 + off[0], 60 + off[1], 16]]))
    away = np.hypot((points[:, 0] - 80) / a, (points[:, 1] - 60) / b)
    np.testing.assert_allclose(away, 1, atol=0.12)
    assert contours.enclosed_area(points) == pytest.approx(np.pi * a * b, rel=0.06)
    assert along.min() > 0.3


@pytest.mark.parametrize("radius", [14.6, 16.0, 17.3])
def test_an_outline_lies_between_the_radii_that_are_tried(radius: float) -> None:
    """They are half a pixel apart; rounded to them, an outline would be .2 off in the mean."""
    y, x = np.mgrid[:120, :160]
    amount = np.clip(radius - np.hypot(x - 80, y - 60) + 0.5, 0, 1).astype(np.float32)
    (points,), _ = contours.trace(
        contours.edges(amount, amount > 0.5, 32), np.array([[81.0, 59, 16]])
    )
    assert np.abs(np.hypot(*(points - [80, 60]).T) - radius).mean() < 0.1


def test_cells_that_lie_over_one_another_have_whole_outlines() -> None:
    places = np.array([[70.0, 60, 16], [92, 60, 16]])
    points, _ = contours.trace(edges_of(*((x, y, r, r) for x, y, r in places)), places)
    for outline in points:
        assert contours.enclosed_area(outline) == pytest.approx(np.pi * 16**2, rel=0.08)


def test_nothing_is_known_outside_the_field() -> None:
    (points,), (along,) = contours.trace(edges_of((5, 60, 16, 16)), np.array([[5.0, 60, 16]]))
    np.testing.assert_array_equal(np.isnan(along), points[:, 0] < 0)
    assert 0.2 < np.isnan(along).mean() < 0.5


def test_outlines_are_laid_over_one_another_as_scikit_image_draws_each() -> None:
    rng = np.random.default_rng(0)
    expected, outlines = np.zeros((80, 120), np.int32), []
    for way in (-1, 1) * 20:
        angles = way * np.linspace(0, 2 * np.pi, contours.ANGLES, endpoint=False)
        radii = rng.uniform(5, 30) * rng.uniform(0.7, 1.3, contours.ANGLES)
        middle = rng.uniform(-10, [130, 90])
        outlines.append(middle + np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None])
        expected[polygon(outlines[-1][:, 1], outlines[-1][:, 0], expected.shape)] += 1
    assert expected.max() > 3
    np.testing.assert_array_equal(contours.layers(outlines, expected.shape), expected)
    assert not contours.layers([], (3, 4)).any()


def test_distances_do_not_depend_on_the_number_of_threads() -> None:
    y, x = np.mgrid[:200, :301]
    mask = np.hypot(x - 150, y - 100) < 90
    before, found = cv2.getNumThreads(), []
    for threads in (1, 2):
        cv2.setNumThreads(threads)
        found.append(contours.depths(mask))
    cv2.setNumThreads(before)
    assert found[0].max() == pytest.approx(90, abs=1)
    np.testing.assert_array_equal(*found)


def test_edges_do_not_depend_on_where_arrays_lie_in_memory() -> None:
    amount = np.random.default_rng(0).random((120, 121), np.float32)
    known, kept = contours.edges(amount, amount > 0, 24), []
    for number in range(200):
        kept.append(np.empty(1100 + 16 * number, np.uint8))
        np.testing.assert_array_equal(contours.edges(amount, amount > 0, 24), known)
