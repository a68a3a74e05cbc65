import numpy as np
import pytest
from PIL import Image

from tasks.cells import find_cells
from tasks.crops import TRAINING_DIAMETER, cut_out
from tests.test_cells import field_of


def test_a_crop_is_a_tight_box_with_black_surroundings() -> None:
    field = field_of((150, 120), (210, 120), (80, 220))
    found = find_cells(field)
    for cell in found.cells:
        crop = cut_out(field, cell, found.diameter)
        lit = crop.any(axis=2)
        assert crop.dtype == np.uint8
        assert crop.shape[:2] == pytest.approx((TRAINING_DIAMETER, TRAINING_DIAMETER), rel=0.1)
        assert not crop[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        assert lit.any(axis=0).mean() > 0.95
        assert lit.any(axis=1).mean() > 0.95
        assert lit.mean() == pytest.approx(np.pi / 4, abs=0.06)


def test_the_neighbour_is_black_too() -> None:
    field = field_of((150, 120))
    (cell,) = find_cells(field).cells
    field[:, :118] = 0  # beside the cell
    crop = cut_out(field, cell, 60)
    assert crop[crop.any(axis=2)].min() > 100


@pytest.mark.parametrize("scale", [0.5, 2])
def test_a_crop_does_not_depend_on_magnification(scale: float) -> None:
    field = field_of((150, 120), (280, 180))
    size = round(field.shape[1] * scale), round(field.shape[0] * scale)
    other = np.asarray(Image.fromarray(field).resize(size, Image.Resampling.BICUBIC))
    crops = []
    for each in (field, other):
        found = find_cells(each)
        crops.append(cut_out(each, found.cells[0], found.diameter))
    assert crops[0].shape == pytest.approx(crops[1].shape, abs=8)
    means = [crop[crop.any(axis=2)].mean(axis=0) for crop in crops]
    np.testing.assert_allclose(*means, atol=4)


def test_a_crop_at_the_border_holds_what_is_seen() -> None:
    field = field_of((150, 120), (395, 200))
    found = find_cells(field)
    (cell,) = (cell for cell in found.cells if cell.touches_border)
    crop = cut_out(field, cell, found.diameter)
    assert crop.shape[1] < 0.8 * crop.shape[0]
    assert crop[crop.shape[0] // 2, -1].all()
