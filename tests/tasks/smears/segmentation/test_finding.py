import tracemalloc

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tasks.images.decoding import BadImageError
from tasks.smears.segmentation import finding as module
from tasks.smears.segmentation.finding import Cell, Cells, find_cells, find_roughly
from tests.support.fields import GROUND, NUCLEUS, RED, Field, disc, field_of, ground, rendered


def centres(found: Cells) -> NDArray[np.float64]:
    boxes = np.array([cell.box for cell in found.cells], float).reshape(-1, 4)
    return boxes[:, :2] + (boxes[:, 2:] - 1) / 2


def test_one_cell_is_outlined() -> None:
    found = find_cells(field_of((150, 120)))
    (cell,) = found.cells
    assert found.diameter == pytest.approx(60, rel=0.05)
    assert cell.box == pytest.approx((120, 90, 61, 61), abs=3)
    assert cell.area == pytest.approx(np.pi * 30**2, rel=0.08)
    assert cell.outline.shape[1] == 2
    np.testing.assert_allclose(np.hypot(*(cell.outline - [150, 120]).T), 30, atol=2)
    assert cell.edge > 0.75
    assert (cell.kind, cell.touches_border) == ("red", False)


def test_touching_and_overlapping_cells_are_separate() -> None:
    places = [(100, 100), (160, 100), (250, 200), (295, 200)]
    found = find_cells(field_of(*places))
    assert len(found.cells) == 4
    np.testing.assert_allclose(np.sort(centres(found), axis=0), np.sort(places, axis=0), atol=4)


def test_a_pale_middle_is_part_of_its_cell() -> None:
    field = field_of((150, 120))
    rows, columns = np.ogrid[:300, :400]
    field[np.hypot(columns - 150, rows - 120) < 13] = GROUND
    (cell,) = find_cells(field).cells
    assert cell.area == pytest.approx(np.pi * 30**2, rel=0.1)


def test_a_cell_that_the_border_cuts_is_marked() -> None:
    found = find_cells(field_of((150, 120), (395, 200), (200, 5)))
    assert sorted(cell.touches_border for cell in found.cells) == [False, True, True]
    for cell in found.cells:
        x, y, width, height = cell.box
        assert x >= 0
        assert y >= 0
        assert x + width <= 400
        assert y + height <= 300
        assert cell.touches_border == (cell.area < 0.8 * np.pi * 30**2)


def through_an_eyepiece(*places: tuple[int, int], dark: int = 25) -> Field:
    """Draw a field that only a disc of 140 pixels around (200, 150) is lit of."""
    field = field_of(*places)
    rows, columns = np.ogrid[:300, :400]
    away = np.hypot(columns - 200, rows - 150)[..., np.newaxis]
    share = np.clip((143 - away) / 4, 0, 1)
    lamp = 1 - 0.3 * (away / 140) ** 2
    return np.asarray(field * lamp * share + dark * (1 - share), np.uint8)


@pytest.mark.parametrize("dark", [0, 25, 90])
def test_the_field_of_an_eyepiece_is_its_disc(dark: int) -> None:
    places = [(150, 90), (230, 80), (140, 180), (215, 160), (200, 240), (290, 230), (325, 150)]
    found = find_cells(through_an_eyepiece(*places, dark=dark))
    whole = [cell.outline.mean(axis=0) for cell in found.cells if not cell.touches_border]
    away = np.hypot(*(np.array(whole)[:, np.newaxis] - places[:5]).transpose(2, 0, 1))
    assert len(whole) == 5
    np.testing.assert_array_less(away.min(axis=0), 5)
    for cell in found.cells:
        assert np.hypot(*(cell.outline.mean(axis=0) - [200, 150])) < 150


@pytest.mark.parametrize("ink", [0, 255])
def test_a_scale_bar_and_its_text_are_no_cells(ink: int) -> None:
    places = [(80, 60), (180, 60), (280, 60), (80, 150), (180, 150), (350, 150)]
    field = np.minimum(field_of(*places), 230)
    cv2.rectangle(field, (250, 270), (380, 278), (ink,) * 3, -1)
    cv2.putText(field, "10 um", (260, 262), cv2.FONT_HERSHEY_SIMPLEX, 1, (ink,) * 3, 3)
    found = find_cells(field, 60)
    whole = [cell for cell in found.cells if not cell.touches_border]
    assert len(whole) >= 5
    for cell in whole:
        x, y = cell.outline.mean(axis=0)
        assert min(np.hypot(x - a, y - b) for a, b in places) < 5


def test_specks_are_no_cells() -> None:
    field = field_of((100, 100), (220, 120), (120, 220))
    for x, y in ((40, 40), (300, 220), (330, 60), (200, 250)):
        disc(field, x, y, 8, NUCLEUS)
    assert len(find_cells(field).cells) == 3


NO_CELLS = {
    "even": ground(),
    "black": np.zeros((200, 300, 3), np.uint8),
    "white": np.full((200, 300, 3), 255, np.uint8),
    "noise": np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8),
    "empty": np.random.default_rng(0).normal(220, 4, (200, 300, 3)).astype(np.uint8),
    "a pixel": np.zeros((1, 1, 3), np.uint8),
    "six pixels": np.random.default_rng(0).integers(0, 256, (3, 2, 3), np.uint8),
    "a row": np.random.default_rng(0).integers(0, 256, (1, 500, 3), np.uint8),
    "a long row": np.random.default_rng(0).integers(0, 256, (1, 5000, 3), np.uint8),
}


@pytest.mark.parametrize("name", NO_CELLS)
def test_where_there_is_no_cell_none_is_found(name: str) -> None:
    found = find_cells(NO_CELLS[name])
    assert found.cells == ()
    assert np.isnan(found.diameter)


def test_a_cell_as_large_as_its_field_is_found() -> None:
    field = ground()
    disc(field, 200, 150, 140, RED)
    (cell,) = find_cells(field).cells
    assert cell.area == pytest.approx(np.pi * 140**2, rel=0.1)


def test_a_grey_field_has_the_same_cells() -> None:
    places = [(100, 100), (220, 120), (120, 220)]
    grey = np.repeat(field_of(*places).mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert len(find_cells(grey).cells) == 3


@pytest.mark.parametrize("field", [np.zeros((9, 9)), np.zeros((9, 9, 4), np.uint8)])
def test_what_is_not_rgb_is_refused(field: Field) -> None:
    with pytest.raises(ValueError, match="a field is RGB"):
        find_cells(field)


@pytest.mark.parametrize("diameter", [7.9, 0.0, -60.0, np.nan, np.inf])
def test_a_diameter_that_no_cell_has_is_refused(diameter: float) -> None:
    with pytest.raises(ValueError, match="at least 8, not"):
        find_cells(field_of((150, 120)), diameter)


@pytest.mark.parametrize("told", [52, 60, 68])
def test_a_told_diameter_need_not_be_exact(told: float) -> None:
    found = find_cells(field_of((100, 100), (160, 100), (250, 200)), told)
    assert len(found.cells) == 3
    assert found.diameter == pytest.approx(60, rel=0.03)


def test_nothing_but_stains_of_another_size_is_no_cell() -> None:
    found = find_cells(field_of((150, 120), radius=10), 60)
    assert found.cells == ()
    assert np.isnan(found.diameter)


@pytest.mark.parametrize("seed", range(3))
def test_cells_do_not_depend_on_which_way_is_up(seed: int) -> None:
    field = rendered(seed).pixels
    found, turned = find_cells(field), find_cells(np.ascontiguousarray(np.rot90(field)))
    x, y = centres(found).T
    there = np.stack([y, field.shape[1] - 1 - x], axis=1)
    apart = np.hypot(*(there[:, None] - centres(turned)).transpose(2, 0, 1))
    assert abs(len(found.cells) - len(turned.cells)) <= 1
    assert np.mean(apart.min(axis=1) < 0.1 * found.diameter) >= 0.95


@pytest.mark.parametrize("scale", [0.4, 0.7, 1.6])
def test_magnification_does_not_matter(scale: float) -> None:
    field = rendered(6).pixels
    other = ndimage.zoom(field, (scale, scale, 1), order=1)
    found, there = find_cells(field), find_cells(other)
    assert there.diameter / scale == pytest.approx(found.diameter, rel=0.05)
    assert len(there.cells) == pytest.approx(len(found.cells), rel=0.05)


def test_light_that_falls_off_does_not_matter() -> None:
    field = rendered(7)
    height, width = field.pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    dim = field.pixels * (0.8 - 0.15 * (x * x + y * y) + 0.05 * x)[..., np.newaxis]
    assert len(find_cells(dim.astype(np.uint8)).cells) == pytest.approx(40, rel=0.05)


@pytest.mark.parametrize("overlapping", [0.0, 0.2, 0.4])
def test_cells_are_counted_within_five_percent(overlapping: float) -> None:
    fields = [rendered(seed, overlapping=overlapping) for seed in range(4)]
    counted = sum(len(find_cells(field.pixels).cells) for field in fields)
    assert counted == pytest.approx(sum(len(field.cells) for field in fields), rel=0.05)


@pytest.mark.parametrize("ink", [(30, 40, 140), (20, 20, 25), (170, 20, 40)])
@pytest.mark.parametrize("width", [20, 40, 80])  # pixels; a cell has 125
def test_the_ring_of_a_pen_hides_the_cells_below_it_alone(
    ink: tuple[int, int, int], width: int
) -> None:
    field = rendered(7)
    strokes = np.zeros(field.pixels.shape[:2], np.uint8)
    cv2.circle(strokes, (700, 500), 420, 1, width)
    marked = field.pixels.copy()
    marked[strokes > 0] = ink
    boxes = [cell.box for cell in find_cells(field.pixels).cells if not cell.touches_border]
    clear = [(x, y) for x, y, w, h in boxes if not strokes[y : y + h, x : x + w].any()]
    found = [cell.box for cell in find_cells(marked).cells if cell.kind == "red"]
    near = [min(np.hypot(*np.subtract(place, box[:2])) for box in found) for place in clear]
    assert len(clear) >= 8
    assert np.mean(np.array(near) < 20) >= 0.9


def test_a_streak_of_stain_is_no_reason_to_fail() -> None:
    field = field_of((150, 120), (260, 150), (80, 200))
    field[40, 20:380] = (60, 20, 140)
    field[:, 5] = (60, 20, 140)
    assert len(find_cells(field).cells) >= 3


def test_candidates_take_memory_by_their_number_and_not_by_its_square() -> None:
    rng, number = np.random.default_rng(0), 30_000
    turn = np.exp(2j * np.pi * np.arange(24) / 24)
    around = rng.uniform(20, 28, (number, 1, 1)) * np.stack([turn.real, turn.imag], axis=1)
    outlines = rng.uniform(0, 3000, (number, 1, 2)) + around
    along = np.full((number, 24), 0.6)
    tracemalloc.start()
    found = module._distinct(outlines, along, 48)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) > 10_000
    assert most < 100e6  # each against each are 14 GB


def test_the_magnification_of_a_very_large_field_is_that_of_its_middle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a photograph of tissue is searched a dozen times with a million rings."""
    field = np.tile(field_of((100, 100), (200, 220), (330, 130)), (3, 3, 1))
    whole, searched, search = find_roughly(field), list[int](), module._search

    def noting(part: Field, *given: object) -> list[Cell]:
        searched.append(max(part.shape))
        return search(part, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_search", noting)
    monkeypatch.setattr(module, "MOST_ACROSS", 8)
    found = find_roughly(field)
    assert max(searched) <= 8 * 1.1 * 60
    assert found.diameter == pytest.approx(whole.diameter, rel=0.1)
    assert len(found.cells) >= 4
    for x, y in centres(found)[[not cell.touches_border for cell in found.cells]]:
        assert np.hypot(*(centres(whole) - (x, y)).T).min() < 3


@pytest.mark.parametrize(
    ("shape", "says"), [((1000, 1000), "in 6000 x 6000 pixels, .* cut"), ((40, 6000), "cut")]
)
def test_a_field_with_too_many_pixels_to_search_is_refused_before_it_is_enlarged(
    shape: tuple[int, int], says: str
) -> None:
    with pytest.raises(BadImageError, match=f"{says} the photograph") as why:
        find_cells(np.zeros((*shape, 3), np.uint8), 8)
    assert why.value.reason == "too_large"
