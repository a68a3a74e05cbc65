"""Pictures of one cell, and of many."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.images.decoding import LARGEST_CELL, LARGEST_TRAINING_CELL, BadImageError, is_masked
from tasks.smears.segmentation.whole_cells import SEVERAL, refuse_many_cells, whole_cells
from tests.support.fields import RED, disc, field_of, ground, rendered


def test_a_small_crop_of_many_cells_is_no_cell_and_a_masked_one_is() -> None:
    places = [(x, y) for x in (60, 150, 240) for y in (60, 150, 240)]
    crop = field_of(*places)[:300, :300]
    assert whole_cells(crop) == 9
    masked = np.zeros_like(crop)
    disc(masked, 150, 150, 140, RED)
    assert not is_masked(crop)
    assert is_masked(masked)
    assert whole_cells(masked) <= 1


def test_the_cells_in_the_disc_of_an_eyepiece_are_counted() -> None:
    places = [(x, y) for x in range(80, 400, 80) for y in range(70, 300, 80)]
    telephone = field_of(*places)[:300]
    rows, columns = np.ogrid[:300, :400]
    telephone[np.hypot(columns - 200, rows - 150) > 148] = (20, 18, 30)
    assert whole_cells(telephone) >= SEVERAL


@pytest.mark.parametrize("size", [(900, 650), (640, 460), (500, 357)])
def test_a_photograph_of_many_cells_is_refused_with_their_number(size: tuple[int, int]) -> None:
    field = rendered(0, overlapping=0)
    photograph = Image.fromarray(field.pixels).resize(size)
    with pytest.raises(BadImageError, match=r"pixels show \d+ whole cells") as caught:
        refuse_many_cells(photograph)
    assert caught.value.reason == "not_a_cell"
    assert str(caught.value).startswith(f"{size[0]} x {size[1]} pixels show ")
    within = sum(
        x > 0 and y > 0 and x + width < 1400 and y + height < 1000
        for x, y, width, height in (cell.box for cell in field.cells)
    )
    assert within >= 20
    assert whole_cells(np.asarray(photograph)) == pytest.approx(within, rel=0.1)


@pytest.mark.parametrize("longer", [LARGEST_TRAINING_CELL + 1, 700, LARGEST_CELL])
def test_training_cells_as_large_as_photographs_are_single_cells(cells: Path, longer: int) -> None:
    for path in sorted(cells.glob("*/*.png"))[::4]:
        with Image.open(path) as cell:
            scale = longer / max(cell.size)
            refuse_many_cells(cell.resize((round(cell.width * scale), round(cell.height * scale))))


def test_a_cell_that_fills_its_picture_is_one_whatever_lies_beside_it() -> None:
    picture = ground(500, 500)
    for turn in np.arange(8) * np.pi / 4:
        disc(picture, 250 + 195 * np.cos(turn), 250 + 195 * np.sin(turn), 50, RED)
    assert whole_cells(picture) == 8
    disc(picture, 250, 250, 130, RED)
    assert whole_cells(picture) == 1


def test_cells_that_the_border_cuts_are_not_counted() -> None:
    cut = [(0, 90), (0, 220), (399, 80), (399, 210), (130, 0), (290, 299)]
    assert whole_cells(field_of(*cut)) == 0
    assert whole_cells(field_of(*cut, (100, 150), (200, 70), (200, 220), (300, 150))) == SEVERAL


@pytest.mark.parametrize("size", [(LARGEST_CELL, 3), (3, LARGEST_CELL), (600, 600), (1, 1)])
@pytest.mark.parametrize("colour", [0, 128, 255])
def test_a_picture_of_one_colour_shows_no_cell(size: tuple[int, int], colour: int) -> None:
    refuse_many_cells(Image.new("RGB", size, (colour,) * 3))


def test_a_streak_and_noise_are_searched_without_an_error() -> None:
    rng = np.random.default_rng(0)
    for shape in ((3, 1000, 3), (1000, 5, 3), (500, 500, 3)):
        whole_cells(rng.integers(0, 256, shape, np.uint8))
