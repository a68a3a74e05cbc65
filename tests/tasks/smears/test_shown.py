from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.images.access.files import ChangedError
from tasks.images.manifest import Region
from tasks.images.regions import find
from tasks.smears.visualisation.overlay import find_unchanged, read_around
from tests.support.images import whole_file


def test_an_image_that_was_replaced_since_it_was_screened_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "cell.png"
    Image.new("RGB", (9, 9)).save(path)
    ref = whole_file(path.as_uri())
    screened = find(ref).image_id.hex()
    assert find_unchanged(ref, screened).image().size == (9, 9)
    Image.new("RGB", (9, 9), "red").save(path)
    with pytest.raises(ChangedError, match="changed since it was screened"):
        find_unchanged(ref, screened)


def test_the_surroundings_of_a_region_end_with_its_source(tmp_path: Path) -> None:
    field = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(field).save(tmp_path / "field.png")
    pixels, wide = read_around((tmp_path / "field.png").as_uri(), Region(30, 5, 20, 10), 8)
    assert wide == Region(22, 0, 36, 23)
    np.testing.assert_array_equal(pixels, field[:23, 22:58])
