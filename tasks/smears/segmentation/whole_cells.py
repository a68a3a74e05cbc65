"""Count the whole cells in a picture, which is no picture of one cell if it shows several."""

import threading

import numpy as np
from PIL import Image

from tasks.images import geometry
from tasks.images.decoding import is_masked, not_a_cell
from tasks.smears.segmentation.absorbance import rim
from tasks.smears.segmentation.finding import LEAST_DIAMETER, Cell, find_cells, find_roughly
from tasks.types import Pixels

SEARCHED = 640  # pixels of the longer side for counting cells, which bounds memory
# The emptiest of 120 BCCD fields shows four; of 600 NIH cells, enlarged to 420 to 1,000 pixels,
# none shows more than two.
SEVERAL = 4
# Neighbours of a cell, and pieces of the rim of a pale one, are also counted as cells, so a clear
# outline that fills the middle decides. Of 345 cells of the vivax set, cut out with their
# surroundings and enlarged in the same way, 17 are refused; without this rule, 45.
FILLING = 0.8, 0.55  # diameters to look for, as shares of the shorter side
LEAST_FILLED = 0.45  # the same for a cell that fills its picture
CLEAR = 0.9  # edge of its outline
# The same for a cell in a disc on black. Of 121 masked cells of the NIH, enlarged to 421 pixels, 10
# show several pieces as clear; of photographs masked to a disc, two thirds show several cells.
CLEAREST = 0.98
OFF_CENTRE = 0.2  # distance of its middle from the picture's, as a share of the shorter side
# One picture at a time, because each takes up to 320 MB.
_COUNTING = threading.Lock()


def refuse_many_cells(picture: Image.Image) -> None:
    """Raise BadImageError if an RGB picture shows several whole cells and none that fills it."""
    with _COUNTING:
        count = whole_cells(np.asarray(picture))
    if count >= SEVERAL:
        raise not_a_cell(f"{picture.width} x {picture.height} pixels show {count} whole cells")


def whole_cells(field: Pixels) -> int:
    """Count the cells in a picture, RGB uint8 (h, w, 3), that its border does not cut.

    The count is 1 if a single cell fills the picture, whatever surrounds it. In a picture masked to
    black, which shows no background, only very clear outlines count.
    """
    field = geometry.scaled(field, min(1.0, SEARCHED / max(field.shape[:2])))
    masked = is_masked(field)
    if (masked or rim(field) is None) and _is_filled(field):
        return 1
    least = CLEAREST if masked else 0.0
    found = find_roughly(field).cells
    return sum(cell.edge >= least and not cell.touches_border for cell in found)


def _is_filled(field: Pixels) -> bool:
    side = min(field.shape[:2])
    height, width = field.shape[:2]

    def fills(cell: Cell) -> bool:
        away = float(np.hypot(*(cell.outline.mean(axis=0) - [width / 2, height / 2])))
        diameter = 2 * float(np.sqrt(cell.area / np.pi))
        is_clear = cell.kind == "red" and cell.edge >= CLEAR
        return is_clear and diameter >= LEAST_FILLED * side and away <= OFF_CENTRE * side

    sought = (max(share * side, LEAST_DIAMETER) for share in FILLING)
    return any(fills(cell) for diameter in sought for cell in find_cells(field, diameter).cells)
