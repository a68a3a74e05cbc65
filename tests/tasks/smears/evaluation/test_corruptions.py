import numpy as np
import pytest

from tasks.smears.evaluation.treatments import CORRUPTIONS, corrupt
from tasks.smears.synthetic.rendered_cells import draw_patient, red_cell

LEVELS = range(1, 6)


CELLS = [
    red_cell(draw_patient(seed + 1, rng), rng, "ring" if seed % 2 else None)
    for seed in range(6)
    for rng in [np.random.default_rng(seed)]
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_shift_keeps_the_shape_and_follows_its_seed(name: str, level: int) -> None:
    image = CELLS[1]
    before = image.copy()
    shifted = corrupt(image, name, level, seed=3)
    assert shifted.shape == image.shape
    assert shifted.dtype == np.uint8
    assert (shifted != image).any()
    np.testing.assert_array_equal(shifted, corrupt(image, name, level, seed=3))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", ["motion", "noise", "cast", "debris"])
def test_seeds_and_images_differ(name: str) -> None:
    image = np.full((40, 50, 3), (180, 120, 150), np.uint8)
    image[10:30, 10:40] = (120, 60, 130)
    other = image.copy()
    other[0, 0] = (181, 120, 150)
    shifted = corrupt(image, name, 4)
    assert (shifted != corrupt(image, name, 4, seed=1)).any()
    assert (shifted[1:] != corrupt(other, name, 4)[1:]).any()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_level_changes_more_from_barely_visible_to_gross(name: str) -> None:
    by_level = [
        np.mean([np.abs(corrupt(each, name, level).astype(int) - each).mean() for each in CELLS])
        for level in LEVELS
    ]
    assert by_level == sorted(by_level)
    assert by_level[-1] > 2 * by_level[0] > 0
    assert by_level[0] < 12
    assert by_level[-1] > 2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "jpeg"])
def test_a_black_surround_stays_black(name: str, level: int) -> None:
    for image in CELLS:
        assert not corrupt(image, name, level)[~image.any(axis=2)].any()


@pytest.mark.parametrize("name", ["defocus", "motion", "magnification"])
def test_the_surround_does_not_bleed_into_the_cell(name: str) -> None:
    image = np.zeros((60, 70, 3), np.uint8)
    image[10:50, 15:60] = (180, 120, 150)
    np.testing.assert_allclose(corrupt(image, name, 5), image, atol=1)


def test_an_image_of_one_pixel_is_no_exception() -> None:
    for name in CORRUPTIONS:
        assert corrupt(np.full((1, 1, 3), 90, np.uint8), name, 2).shape == (1, 1, 3)
