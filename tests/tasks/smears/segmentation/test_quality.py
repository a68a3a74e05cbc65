from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tasks.images.decoding import BadImageError
from tasks.smears.segmentation.finding import Cells, find_cells
from tasks.smears.segmentation.quality import field_quality, packed, refuse_other, sharpness
from tests.support.fields import RED, Field, clouds, field_of, ground, rendered, thick_film

NONE = Cells((), float("nan"))


def quality(field: Field) -> dict[str, Any]:
    return field_quality(field, find_cells(field))


def stain(quality: dict[str, Any]) -> list[float]:
    return [quality[f"stain_{name}"] for name in ("red", "green", "blue")]


def test_a_field_without_cells_has_no_stain_and_no_focus() -> None:
    empty = field_quality(ground(), NONE)
    assert (empty["cells"], empty["covered"]) == (0, 0.0)
    assert np.isnan([empty["sharpness"], empty["overlap"], *stain(empty)]).all()
    assert empty["brightness"] == pytest.approx(np.mean([225, 228, 220]) / 255)


@pytest.mark.parametrize(("level", "dark", "bright"), [(0, 1, 0), (255, 0, 1), (128, 0, 0)])
def test_clipped_pixels_are_counted(level: int, dark: float, bright: float) -> None:
    found = field_quality(np.full((20, 30, 3), level, np.uint8), NONE)
    assert (found["too_dark"], found["too_bright"]) == (dark, bright)


def test_one_clipped_channel_clips_a_pixel() -> None:
    field = ground(80, 120)
    field[:20, :, 2] = 255
    assert field_quality(field, NONE)["too_bright"] == pytest.approx(0.25)


def test_stain_is_the_colour_of_the_cells_alone() -> None:
    found = quality(field_of((100, 100), (220, 120), (120, 220)))
    assert found["cells"] == 3
    assert stain(found) == pytest.approx(RED, abs=4)
    assert found["covered"] == pytest.approx(3 * np.pi * 30**2 / (300 * 400), rel=0.08)
    assert found["overlap"] == 0


def test_overlap_is_what_lies_in_two_cells() -> None:
    found = quality(field_of((100, 100), (145, 100), (280, 200)))
    both = 2 * 30**2 * np.arccos(45 / 60) - 45 / 2 * np.sqrt(4 * 30**2 - 45**2)
    assert found["overlap"] == pytest.approx(both / (3 * np.pi * 30**2 - both), abs=0.03)


def test_blur_lowers_sharpness() -> None:
    field = rendered(0).pixels
    diameter = find_cells(field).diameter
    soft = [
        sharpness(np.asarray(Image.fromarray(field).filter(ImageFilter.GaussianBlur(s))), diameter)
        for s in (0, 2, 4, 8)
    ]
    assert soft == sorted(soft, reverse=True)
    assert soft[-1] < soft[0] / 4


def test_neither_contrast_nor_magnification_changes_sharpness() -> None:
    field = rendered(1).pixels
    diameter = find_cells(field).diameter
    plain = sharpness(field, diameter)
    half = np.asarray(Image.fromarray(field).resize((700, 500), Image.Resampling.BOX))
    assert sharpness(half, diameter / 2) == pytest.approx(plain, rel=0.2)
    dim = (field * 0.6 + 20).astype(np.uint8)
    assert sharpness(dim, diameter) == pytest.approx(plain, rel=0.1)


def test_a_field_of_one_colour_is_not_sharp() -> None:
    assert sharpness(ground(), 60) == 0


def test_packed_is_where_no_ground_is_seen() -> None:
    field = field_of((100, 100), (200, 150), (300, 60))
    assert packed(field, 60) == 0
    field[:150] = field[:150] // 3  # half of it is thick
    assert packed(field, 40) == pytest.approx(0.5, abs=0.2)
    assert np.isnan(packed(field, float("nan")))


@pytest.mark.parametrize(
    ("field", "why"),
    [
        (thick_film(), "a thick film, dark nuclei without red cells"),
        (clouds(14), "nothing in it has the edge of a cell"),
        (clouds(30, of_one_colour=False), "white cells alone would be"),
        (ground(), "no red cell in it, or none that is 8 pixels wide"),
    ],
)
def test_what_is_no_thin_smear_is_refused(field: Field, why: str) -> None:
    with pytest.raises(BadImageError, match=why):
        refuse_other(field, find_cells(field), quality(field))


def test_a_thin_smear_is_read_however_empty() -> None:
    for field in (rendered(3).pixels, field_of((100, 100))):
        refuse_other(field, find_cells(field), quality(field))
