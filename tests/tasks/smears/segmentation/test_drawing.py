import numpy as np
import pytest
from PIL import Image

from tasks.images.geometry import TRAINING_DIAMETER, cut_out
from tasks.smears.segmentation.field_of_view import apart, are_bitten, with_rims
from tasks.smears.segmentation.finding import Cell, find_cells
from tasks.types import Pixels
from tests.support.fields import field_of


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
