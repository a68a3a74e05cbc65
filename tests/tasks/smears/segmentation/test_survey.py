from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tifffile import imwrite

from tasks.images.decoding import BadImageError
from tasks.images.opened_slides import open_slide
from tasks.smears.segmentation.finding import MOST_SEARCHED, WORKING_DIAMETER
from tasks.smears.segmentation.survey import survey
from tests.support.rendered_slides import RenderedSlide


@dataclass
class Blank:
    """A slide of one brightness that remembers what was read."""

    width: int
    height: int
    downsamples: tuple[float, ...] = (1.0,)
    microns_per_pixel: float | None = 0.1
    brightness: int = 240
    most: int = 0

    def read(self, x: int, y: int, width: int, height: int, level: int = 0) -> NDArray[np.uint8]:
        here = self.downsamples[level]
        shape = round(height / here), round(width / here), 3
        self.most = max(self.most, shape[0] * shape[1])
        return np.full(shape, self.brightness, np.uint8)


def kinds(path: Path, **given: Any) -> Counter[str]:
    return Counter(place["kind"] for place in survey(open_slide(path.as_uri()), **given))


def test_fields_are_told_from_glass_and_from_what_is_too_thick(
    rendered_slide: tuple[Path, RenderedSlide],
) -> None:
    path, drawn = rendered_slide
    found = survey(open_slide(path.as_uri()))
    assert found[0]["microns_per_pixel"] == pytest.approx(0.125)
    assert found[0]["level"] == 0
    assert found[0]["diameter"] == pytest.approx(60)
    expected = {(field.x, field.y): "thick" if field.thick else "field" for field in drawn.fields}
    assert {(p["x"], p["y"]): p["kind"] for p in found if p["kind"] != "empty"} == expected
    assert len(found) == 12


def test_every_level_but_the_first_may_be_missing(
    rendered_slide: tuple[Path, RenderedSlide], tmp_path: Path
) -> None:
    path = tmp_path / "flat.tif"
    whole = open_slide(rendered_slide[0].as_uri()).read(0, 0, 4096, 3072)
    imwrite(path, whole, tile=(512, 512), photometric="rgb")
    expected = survey(open_slide(rendered_slide[0].as_uri()))
    assert survey(open_slide(path.as_uri()), 0.125) == expected


@given(
    width=st.integers(1, 9000),
    height=st.integers(1, 4000),
    step=st.sampled_from([1.7, 2.0, 4.0]),
    microns_per_pixel=st.floats(0.03, 0.9),
)
def test_places_cover_each_pixel_once(
    width: int, height: int, step: float, microns_per_pixel: float
) -> None:
    slide = Blank(width, height, (1, step, step**2), microns_per_pixel)
    found = survey(slide)
    downsample = slide.downsamples[found[0]["level"]]
    assert downsample == 1 or downsample * microns_per_pixel <= 0.15
    area = 0
    for before, place in zip((None, *found), found, strict=False):
        assert 0 < place["width"] <= 1024 * downsample + 1
        assert 0 < place["height"] <= 1024 * downsample + 1
        area += place["width"] * place["height"]
        if before is not None and place["y"] == before["y"]:
            assert place["x"] == before["x"] + before["width"]
        else:
            assert place["x"] == 0
            assert before is None or (
                before["x"] + before["width"] == width
                and place["y"] == before["y"] + before["height"]
            )
    assert place["y"] + place["height"] == height
    assert area == width * height


@pytest.mark.parametrize("downsamples", [(1.0,), (1.0, 4.0, 16.0)])
def test_what_is_read_at_once_is_bounded(downsamples: tuple[float, ...]) -> None:
    slide = Blank(20_000, 5000, downsamples)
    survey(slide)
    assert slide.most <= 2048**2


@pytest.mark.parametrize("brightness", [255, 240, 128])
def test_a_blank_slide_is_empty(brightness: int) -> None:
    found = survey(Blank(2100, 1000, brightness=brightness))
    assert {place["kind"] for place in found} == {"empty"}
    box = {name: found[1][name] for name in ("x", "y", "width", "height")}
    assert box == {"x": 700, "y": 0, "width": 700, "height": 1000}


def test_a_slide_without_glass_is_thick(tmp_path: Path) -> None:
    dark = np.random.default_rng(0).normal(90, 6, (1500, 1500, 3)).clip(0, 255).astype(np.uint8)
    imwrite(tmp_path / "a.tif", dark, tile=(256, 256), photometric="rgb")
    assert kinds(tmp_path / "a.tif", microns_per_pixel=0.12) == {"thick": 4}


def test_glass_need_not_be_white(tmp_path: Path, slide: Path) -> None:
    """What was never scanned is whiter than glass, and a lamp may be dim."""
    pixels = open_slide(slide.as_uri()).read(0, 0, 4096, 3072)
    dim = (pixels * 0.7).astype(np.uint8)
    imwrite(
        tmp_path / "a.tif",
        np.pad(dim, [(0, 1024), (0, 1024), (0, 0)], constant_values=255),
        tile=(512, 512),
        photometric="rgb",
    )
    found = kinds(tmp_path / "a.tif", microns_per_pixel=0.125)
    assert found == {"field": 4, "thick": 2, "empty": 6 + 8}


def test_the_working_level_is_the_coarsest_that_is_fine_enough() -> None:
    assert survey(Blank(9000, 9000, (1, 2, 4), 0.07))[0]["level"] == 1
    assert survey(Blank(9000, 9000, (1, 2, 4), 0.25))[0]["level"] == 0


def test_the_file_knows_its_magnification_best() -> None:
    assert survey(Blank(900, 900), 0.3)[0]["microns_per_pixel"] == 0.1
    assert survey(Blank(900, 900, microns_per_pixel=None), 0.3)[0]["microns_per_pixel"] == 0.3


@pytest.mark.parametrize("given", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_an_unknown_magnification_is_refused(given: float | None) -> None:
    with pytest.raises(BadImageError, match="say it with --microns-per-pixel") as caught:
        survey(Blank(900, 900, microns_per_pixel=None), given)
    assert caught.value.reason == "unknown_magnification"


def test_a_magnification_too_low_for_cells_is_refused() -> None:
    with pytest.raises(
        BadImageError, match=r"cell is 7\.5 pixels wide, and 8 are needed"
    ) as caught:
        survey(Blank(900, 900, microns_per_pixel=1.0))
    assert caught.value.reason == "too_coarse"


@pytest.mark.parametrize(
    ("size", "microns", "says"),
    [
        ((1_000_000, 1_000_000), 0.15, "150 x 150 mm"),
        ((700_000, 100_000), 0.15, "105 x 15 mm"),
        ((400_000, 400_000), 0.15, "60 x 60 mm"),
    ],
)
def test_a_slide_that_claims_more_than_any_glass_has_is_refused_unread(
    size: tuple[int, int], microns: float, says: str
) -> None:
    slide = Blank(*size, microns_per_pixel=microns)
    with pytest.raises(BadImageError, match=f"{says}, and no glass is larger than 84 x 58") as why:
        survey(slide)
    assert why.value.reason == "too_large"
    assert slide.most == 0


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(76, 26), (52, 76)])
def test_a_slide_as_large_as_its_glass_is_surveyed(sides: tuple[int, int]) -> None:
    width, height = (round(side * 1000 / 0.8) for side in sides)
    assert survey(Blank(width, height, microns_per_pixel=0.8))


def test_a_field_of_small_cells_is_no_larger_than_can_be_searched() -> None:
    slide = Blank(5000, 5000, microns_per_pixel=0.9)
    found = survey(slide)
    side = max(max(place["width"], place["height"]) for place in found)
    diameter = found[0]["diameter"]
    searched = (side + 2 * diameter) * WORKING_DIAMETER / diameter
    assert side < 1024
    assert searched**2 < MOST_SEARCHED
