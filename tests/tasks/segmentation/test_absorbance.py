import numpy as np
import pytest

from tasks.segmentation.absorbance import absorbance, stained
from tasks.segmentation.finding import find_cells
from tests.support.fields import GROUND, NUCLEUS, RED, disc, field_of, ground


def test_absorbance_is_how_much_darker_than_the_ground() -> None:
    field = ground()
    disc(field, 150, 120, 30, RED)
    found = absorbance(field)
    assert found.shape == field.shape
    np.testing.assert_allclose(found[120, 150], np.log(np.array(GROUND) / RED), atol=0.02)
    assert np.abs(found[:80]).max() < 0.02


@pytest.mark.parametrize("exposure", [0.4, 0.7, 1.0])
def test_uneven_light_is_no_stain(exposure: float) -> None:
    field = ground()
    for x, y in ((60, 60), (150, 120), (370, 280)):
        disc(field, x, y, 30, RED)
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    light = exposure * np.exp(-0.3 * (x * x + y * y) + 0.1 * x)[..., np.newaxis]
    found = absorbance((field * light).astype(np.uint8))
    for column, row in ((60, 60), (150, 120), (370, 280)):
        np.testing.assert_allclose(found[row, column], np.log(np.array(GROUND) / RED), atol=0.05)


def test_the_stop_of_an_eyepiece_is_no_light() -> None:
    field = ground()
    disc(field, 150, 120, 30, RED)
    rows, columns = np.ogrid[:300, :400]
    field[np.hypot(columns - 200, rows - 150) > 190] = 3
    found = absorbance(field)
    np.testing.assert_allclose(found[120, 150], np.log(np.array(GROUND) / RED), atol=0.03)


def test_stained_pixels_are_those_of_cells_even_beside_a_dark_nucleus() -> None:
    field = ground()
    disc(field, 150, 120, 30, RED)
    disc(field, 300, 200, 40, (30, 20, 80))
    mask = stained(np.linalg.norm(absorbance(field), axis=2))
    assert mask.sum() == pytest.approx(np.pi * (30**2 + 40**2), rel=0.05)


@pytest.mark.parametrize(
    "amount",
    [
        np.zeros((50, 50), np.float32),
        np.full((50, 50), 0.7, np.float32),
        np.random.default_rng(0).normal(0.1, 0.02, (50, 50)).astype(np.float32),
        np.random.default_rng(0).uniform(0, 2, (50, 50)).astype(np.float32),
    ],
    ids=["none", "even", "faint noise", "noise"],
)
def test_noise_is_no_stain(amount: np.ndarray) -> None:
    assert not stained(amount).any()


def test_a_white_cell_is_one_though_lobed() -> None:
    field = field_of((80, 80), (320, 90), (90, 230), (330, 240))
    disc(field, 200, 150, 50, (205, 190, 215))
    for x, y in ((180, 135), (215, 140), (195, 172)):
        disc(field, x, y, 18, NUCLEUS)
    found = find_cells(field)
    (white,) = (cell for cell in found.cells if cell.kind == "white")
    assert white.box == pytest.approx((150, 100, 101, 101), abs=8)
    assert sum(cell.kind == "red" for cell in found.cells) == 4


def test_a_dark_red_cell_beside_a_white_one_is_not_its_cytoplasm() -> None:
    field = field_of((80, 80), (330, 60), (90, 230), (330, 250))
    disc(field, 200, 150, 46, (205, 190, 215))
    disc(field, 200, 150, 40, NUCLEUS)
    disc(field, 273, 150, 30, (175, 117, 132))
    found = find_cells(field)
    (white,) = (cell for cell in found.cells if cell.kind == "white")
    assert white.box == pytest.approx((154, 104, 93, 93), abs=8)
    assert sum(cell.kind == "red" for cell in found.cells) == 5


def test_pale_red_cells_of_another_tint_are_not_white_cells() -> None:
    field = ground()
    for x, y in ((80, 80), (320, 90), (90, 230), (330, 240)):
        disc(field, x, y, 30, (219, 209, 205))
    disc(field, 200, 150, 30, (200, 217, 216))
    assert [cell.kind for cell in find_cells(field).cells] == ["red"] * 5
