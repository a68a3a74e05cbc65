"""Tiles of photographs and slides, read from the file itself."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.images.access.files import lately_stamped
from tasks.images.geometry import Slide
from tasks.images.opened_slides import open_picture
from tasks.smears.visualisation.viewer.overlays import (
    MOST_READ,
    TILE,
    NoTileError,
    Pyramid,
    read_tile,
)
from tests.support.reading import pyramid


def picture(width: int, height: int, *downsamples: float) -> Slide:
    return Slide(width, height, (1.0, *downsamples), None, read_box=lambda *box: np.zeros(0))


def tile(path: Path, *place: int) -> np.ndarray:
    content = read_tile(path.as_uri(), lately_stamped(path.as_uri()), *place)
    return np.asarray(Image.open(io.BytesIO(content)), int)


def test_the_tiles_of_a_photograph_are_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    smooth = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    photo = Image.fromarray(smooth).resize((1000, 700))
    photo.save(path)
    levels = Pyramid(open_picture(path.as_uri()))
    assert (levels.least, levels.most) == (0, 10)
    own = tile(path, 10, 1, 1)
    assert own.shape == (188, 488, 3)
    assert np.abs(own - np.asarray(photo, int)[512:, 512:]).mean() < 3
    assert tile(path, 9, 0, 0).shape == (350, 500, 3)
    assert tile(path, 0, 0, 0).shape == (1, 1, 3)


def test_a_tile_of_a_pyramid_is_read_from_the_level_that_is_as_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, 4000)
    levels = Pyramid(open_picture(path.as_uri()))
    assert [levels.source_level(scale) for scale in (1, 2, 8, 32)] == [0, 0, 1, 2]
    whole = tile(path, levels.most, 0, 0)
    assert tuple(np.abs(whole[250, 250] - (60, 40, 140)) < 12) == (True,) * 3
    assert tile(path, levels.most - 3, 0, 0).shape == (500, 500, 3)


def test_no_tile_needs_more_of_a_file_than_can_be_read_at_once() -> None:
    flat = Pyramid(picture(40_000, 40_000))
    assert TILE * flat.scale(flat.least) <= MOST_READ
    deep = Pyramid(picture(40_000, 40_000, 4.0, 16.0))
    assert deep.least == 0


@pytest.mark.parametrize("place", [(11, 0, 0), (-1, 0, 0), (10, 2, 0), (10, 0, 9), (10, -1, 0)])
def test_another_tile_is_refused(place: tuple[int, int, int]) -> None:
    with pytest.raises(NoTileError, match="no "):
        Pyramid(picture(1000, 700)).region(*place)
