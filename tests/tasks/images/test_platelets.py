from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tasks.images.platelets import PLATELET, has_platelet, without_platelets
from tasks.synthetic.rendered_cells import draw_patient, red_cell

SIDE, LARGE = 96, 8  # pixels of a cell, and the factor by which it is drawn larger
PINK, GREY = (222, 170, 172), (178, 180, 190)
PURPLE = (170, 60, 190)
Disc = tuple[float, float, float]  # x, y and radius, of the side


def cell(discs: Sequence[Disc], body: tuple[int, int, int] = PINK) -> NDArray[np.uint8]:
    """Draw a red cell on black with stained discs; they are seen outside the cell as well."""
    picture = Image.new("RGB", (SIDE * LARGE, SIDE * LARGE))
    draw = ImageDraw.Draw(picture)
    for (x, y, radius), colour in (((0.5, 0.5, 0.46), body), *((disc, PURPLE) for disc in discs)):
        box = [SIDE * LARGE * each for each in (x - radius, y - radius, x + radius, y + radius)]
        draw.ellipse(box, fill=colour)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


@pytest.mark.parametrize("body", [PINK, GREY])
@pytest.mark.parametrize("quarters", range(4))
def test_a_platelet_at_the_rim_is_found_on_every_side_and_stain(
    body: tuple[int, int, int], quarters: int
) -> None:
    for x in (0.1, 0.14):
        assert has_platelet(np.rot90(cell([(x, 0.5, 0.1)], body), quarters))


@pytest.mark.parametrize(
    "discs",
    [
        [],
        [(0.5, 0.5, 0.1)],  # within the cell
        [(0.3, 0.5, 0.1)],
        [(0.1, 0.5, 0.04)],  # a ring at the rim is smaller
        [(0.25, 0.5, 0.24)],  # a gametocyte is larger
        [(0.1, 0.5, 0.1), (0.6, 0.5, 0.1)],  # with a parasite in the cell
    ],
    ids=["nothing", "in the middle", "within", "small", "large", "two"],
)
def test_parasites_are_no_platelets(discs: list[Disc]) -> None:
    assert not has_platelet(cell(discs))


def test_hardly_any_rendered_parasite_is_a_platelet() -> None:
    rng = np.random.default_rng(0)
    patient = draw_patient(1, rng)
    for stage in ("ring", "trophozoite"):
        pictures = [Image.fromarray(red_cell(patient, rng, stage)) for _ in range(20)]
        found = [has_platelet(np.asarray(each.resize((SIDE, SIDE)))) for each in pictures]
        assert sum(found) <= 1


@pytest.mark.parametrize("level", [0, 1, 255])
def test_a_picture_without_a_cell_has_none(level: int) -> None:
    assert not has_platelet(np.full((SIDE, SIDE, 3), level, np.uint8))
    alone = np.zeros((SIDE, SIDE, 3), np.uint8)
    alone[4:7, 4:7] = level
    assert not has_platelet(alone)


def test_log_odds_fall_where_a_platelet_is() -> None:
    known = np.array([1.0, 1.0, np.nan])
    assert without_platelets(known, None) is known
    lowered = without_platelets(known, np.array([0, 1, 1], np.uint8))
    np.testing.assert_array_equal(lowered, [1.0, 1.0 - PLATELET, np.nan])
