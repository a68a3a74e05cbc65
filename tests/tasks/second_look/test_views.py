import numpy as np
import pytest
from scipy.ndimage import median_filter, uniform_filter

from tasks.second_look.views import ROUNDS, VIEWS, blurred, filtered, median_filtered, turned


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), np.uint8)


def test_the_views_are_all_the_symmetries_of_a_square_once(images: np.ndarray) -> None:
    views = np.split(turned(images, range(VIEWS)), VIEWS)
    np.testing.assert_array_equal(views[0], images)
    assert len({view.tobytes() for view in views}) == VIEWS
    for view in views:
        again = {each.tobytes() for each in np.split(turned(view, range(VIEWS)), VIEWS)}
        assert again == {each.tobytes() for each in views}
    assert sorted(way for ways in ROUNDS for way in ways) == list(range(1, VIEWS))


def test_a_view_moves_pixels_and_changes_none() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    views = turned(image, range(VIEWS))
    np.testing.assert_array_equal(views[1, 0, 0], image[0, 0, 1])
    for view in views:
        pixels = {tuple(pixel) for pixel in view.reshape(-1, 3)}
        assert pixels == {(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)}


def test_a_blur_averages_nine_pixels_and_rounds() -> None:
    image = np.zeros((1, 3, 3, 3), np.uint8)
    image[0, 1, 1] = (9, 13, 255)
    np.testing.assert_array_equal(blurred(image)[0, 0, 0], (1, 1, 28))
    image[0, 0, 0] = 90  # its own edge repeated: it counts four times in its corner
    np.testing.assert_array_equal(blurred(image)[0, 0, 0], (41, 41, 68))


def test_filters_are_those_of_scipy(images: np.ndarray) -> None:
    for image, blur, median in zip(images, blurred(images), median_filtered(images), strict=True):
        mean = uniform_filter(image.astype(float), (3, 3, 1), mode="nearest")
        np.testing.assert_array_equal(blur, np.floor(mean + 0.5 + 1e-9))
        np.testing.assert_array_equal(median, median_filter(image, (3, 3, 1), mode="nearest"))
    assert list(filtered(images)) == ["blur", "median"]


@pytest.mark.parametrize("side", [1, 2])
def test_the_smallest_images_are_filtered(side: int) -> None:
    image = np.full((2, side, side, 3), 200, np.uint8)
    for found in filtered(image).values():
        np.testing.assert_array_equal(found, image)
