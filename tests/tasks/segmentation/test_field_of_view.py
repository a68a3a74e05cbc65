from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tasks.images.access.files import SourceError
from tasks.images.geometry import BLOCK, TRAINING_DIAMETER, coarsen, cut_out
from tasks.segmentation.field_of_view import (
    MEASURED,
    _found_like_others,
    _level_of_cells,
    apart,
    are_bitten,
    load_finder,
    measured_every,
    try_finder,
    typical_diameters,
    with_rims,
)
from tasks.segmentation.finding import Cell, Cells, find_cells
from tasks.types import Pixels
from tests.support.fields import field_of, ground


@pytest.mark.parametrize(("diameter", "level"), [(60, 0), (130, 0), (259, 0), (260, 1), (900, 2)])
def test_cells_are_read_at_the_training_cells_resolution_where_the_slide_has_it(
    diameter: float, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = SimpleNamespace(downsamples=(1.0, 2.0, 4.0))
    monkeypatch.setattr("tasks.images.opened_slides.open_slide", lambda uri: slide)
    assert _level_of_cells({"is_slide": True, "source_uri": "any"}, diameter) == level
    assert _level_of_cells({"is_slide": False}, diameter) == 0


@pytest.mark.parametrize(
    "name", ["nobody", "tests.support.finders:nobody", "tests.nobody:upper_half"]
)
def test_an_unknown_finder_is_refused_before_anything_is_done(name: str) -> None:
    with pytest.raises(SourceError, match="module:function"):
        load_finder(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "tests.support.finders:always_broken",
            r"fails on an empty field \(RuntimeError: no weights\)",
        ),
        ("math:dist", r"fails on an empty field"),
        ("builtins:max", r"fails on an empty field"),
        ("tests.support.finders:nonsense", r"returns list, and not Cells"),
    ],
)
def test_a_wrong_finder_is_known_before_any_photograph_is_read(name: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        try_finder(name)
    try_finder("tests.support.finders:upper_half")
    try_finder("outlines")


@pytest.mark.parametrize(
    ("others", "own", "asked"),
    [(95, 90, [95]), (95, 60, [95, None]), (95, float("nan"), [95, None]), (None, 90, [None])],
    ids=["alike", "another magnification", "no cells", "none measured"],
)
def test_a_photograph_is_searched_as_others_unless_its_cells_differ(
    others: float | None, own: float, asked: list[float | None]
) -> None:
    told = list[float | None]()

    def finder(field: object, diameter: float | None) -> Cells:
        told.append(diameter)
        return Cells((), own)

    _found_like_others(finder, ground(), others)
    assert told == asked


def test_each_photograph_has_the_median_of_its_size() -> None:
    small, large = (640, 480), (1280, 960)
    sizes = [small, small, large, small, large, (9, 9)]
    measured = [90.0, 100.0, 200.0, None, None, None]
    assert typical_diameters(sizes, measured) == [95.0, 95.0, 200.0, 95.0, 200.0, None]


def test_a_field_of_a_slide_keeps_what_its_slide_says() -> None:
    assert typical_diameters([None, (640, 480), None], [31.0, 90.0, None]) == [31.0, 90.0, None]


def test_few_photographs_are_all_measured_and_of_many_about_as_many() -> None:
    assert [measured_every(n) for n in (0, 1, MEASURED, MEASURED + 1)] == [1, 1, 1, 2]
    assert MEASURED / 2 < 1_000_000 // measured_every(1_000_000) <= MEASURED


def crop_of(field: Pixels, cell: Cell, diameter: float) -> Pixels:
    """A cell as the flow `segment` and a worker together cut it out."""
    scale = TRAINING_DIAMETER / diameter
    (outline,) = with_rims([cell.outline], scale)
    size = np.array(field.shape[1::-1])
    low = np.clip(np.floor(outline.min(axis=0)), 0, size - 1).astype(int)
    high = np.clip(np.ceil(outline.max(axis=0)), low, size - 1).astype(int)
    region = field[low[1] : high[1] + 1, low[0] : high[0] + 1]
    return np.asarray(cut_out(region, np.asarray(outline - low, np.float32), scale))


def test_a_crop_is_a_tight_box_with_black_surroundings() -> None:
    field = field_of((150, 120), (210, 120), (80, 220))
    found = find_cells(field)
    for cell in found.cells:
        crop = crop_of(field, cell, found.diameter)
        lit = crop.any(axis=2)
        assert crop.dtype == np.uint8
        assert crop.shape[:2] == pytest.approx((TRAINING_DIAMETER, TRAINING_DIAMETER), rel=0.13)
        assert not crop[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        assert lit.any(axis=0).mean() > 0.95
        assert lit.any(axis=1).mean() > 0.95
        assert lit.mean() == pytest.approx(np.pi / 4, abs=0.06)


def test_the_neighbour_is_black_too() -> None:
    field = field_of((150, 120))
    (cell,) = find_cells(field).cells
    field[:, :116] = 0  # beside the cell and its rim
    crop = crop_of(field, cell, 60)
    assert crop[crop.any(axis=2)].min() > 100


@pytest.mark.parametrize("scale", [0.5, 2])
def test_a_crop_does_not_depend_on_magnification(scale: float) -> None:
    field = field_of((150, 120), (280, 180))
    size = round(field.shape[1] * scale), round(field.shape[0] * scale)
    other = np.asarray(Image.fromarray(field).resize(size, Image.Resampling.BICUBIC))
    crops = []
    for each in (field, other):
        found = find_cells(each)
        crops.append(crop_of(each, found.cells[0], found.diameter))
    assert crops[0].shape == pytest.approx(crops[1].shape, abs=8)
    means = [crop[crop.any(axis=2)].mean(axis=0) for crop in crops]
    np.testing.assert_allclose(*means, atol=4)


def test_a_crop_at_the_border_holds_what_is_seen() -> None:
    field = field_of((150, 120), (395, 200))
    found = find_cells(field)
    (cell,) = (cell for cell in found.cells if cell.touches_border)
    crop = crop_of(field, cell, found.diameter)
    assert crop.shape[1] < 0.8 * crop.shape[0]
    assert crop[crop.shape[0] // 2, -1].all()


def test_a_tile_is_only_scaled() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    np.testing.assert_array_equal(cut_out(tile, None, 1.0), tile)
    assert cut_out(tile, None, 2.0).size == (80, 60)


def test_an_outline_follows_blocks_as_that_of_the_training_cells_does() -> None:
    y, x = np.mgrid[:64, :64]
    coarse = coarsen(np.hypot(x - 31, y - 31) < 28)
    blocks = coarse.reshape(16, BLOCK, 16, BLOCK)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert coarse.mean() == pytest.approx(np.pi * 28**2 / 64**2, rel=0.05)


def test_a_cell_that_loses_much_to_a_neighbour_is_bitten() -> None:
    turn = 2 * np.pi * np.arange(48) / 48
    ring = 30 * np.stack([np.cos(turn), np.sin(turn)], axis=1)

    def bitten(away: float) -> list[bool]:
        outlines = [ring, ring + np.array([away, 0]), ring + np.array([0, 200])]
        rims = with_rims(outlines, 2)
        marks: list[bool] = are_bitten(rims, apart(outlines, rims, 2)).tolist()
        return marks

    assert bitten(45) == [True, True, False]
    assert bitten(60) == [False] * 3
    assert are_bitten([], []).tolist() == []
