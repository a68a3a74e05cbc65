import cv2
import numpy as np
import pytest

from tasks.smears.segmentation.finders import for_learning
from tasks.smears.segmentation.finding import find_cells
from tests.support.fields import NUCLEUS, disc, field_of, ground


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


DARK, PALER = (77, 79, 126), (100, 85, 140)


@pytest.mark.parametrize(
    ("radius", "body", "is_white"),
    [(34, DARK, True), (18, DARK, False), (40, PALER, True), (34, PALER, False)],
)
def test_among_purple_red_cells_a_dark_body_is_a_nucleus_only_if_it_is_large(
    radius: int, body: tuple[int, int, int], is_white: bool
) -> None:
    purple, field = (160, 110, 150), ground()  # nearly of one colour
    for x, y in ((80, 80), (320, 70), (90, 230), (330, 240), (60, 150), (340, 150)):
        disc(field, x, y, 30, purple)
    rows, columns = np.ogrid[: field.shape[0], : field.shape[1]]
    for reach, colour in ((max(30, radius + 4), purple), (radius, body)):
        field[np.hypot(columns - 200, rows - 150) <= reach] = colour
    kinds = [cell.kind for cell in find_cells(field).cells]
    assert kinds.count("white") == is_white
    assert len(kinds) == 7
    learned = for_learning(find_cells)(field, None)
    assert {cell.kind for cell in learned.cells} == {"red"}


@pytest.mark.parametrize(
    ("ink", "letter"),
    [((10, 10, 14), ((170, 110), (170, 190))), ((40, 60, 190), ((20, 150), (390, 150)))],
)
def test_what_a_pen_wrote_is_no_cell_and_cuts_the_cells_below(
    ink: tuple[int, int, int], letter: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    field = field_of((80, 60), (320, 60), (90, 250), (330, 250), (190, 150))
    written = cv2.line(field.copy(), *letter, ink, 22)
    cells = find_cells(written).cells
    assert sum(not cell.touches_border for cell in cells) == 4
    assert {cell.kind for cell in cells} == {"red"}
