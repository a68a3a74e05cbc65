"""Recognise a photograph of many cells among pictures of single ones."""

import threading

import numpy as np
from PIL import Image

from tasks.images.decoding import not_a_cell
from tasks.images.geometry import scaled
from tasks.segmentation.finding import LEAST_DIAMETER, Cell, find_cells, find_roughly
from tasks.types import Field

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
OFF_CENTRE = 0.2  # distance of its middle from the picture's, as a share of the shorter side
# One picture at a time, because each takes up to 320 MB.
_COUNTING = threading.Lock()


def refuse_many_cells(picture: Image.Image) -> None:
    """Raise BadImageError if an RGB picture shows several whole cells and none that fills it."""
    with _COUNTING:
        count = whole_cells(np.asarray(picture))
    if count >= SEVERAL:
        raise not_a_cell(f"{picture.width} x {picture.height} pixels show {count} whole cells")


def whole_cells(field: Field) -> int:
    """Count the cells in a picture, RGB uint8 (h, w, 3), that its border does not cut.

    The count is 1 if a single cell fills the picture, whatever surrounds it.
    """
    field = scaled(field, min(1.0, SEARCHED / max(field.shape[:2])))
    if _is_filled(field):
        return 1
    return sum(not cell.touches_border for cell in find_roughly(field).cells)


def _is_filled(field: Field) -> bool:
    """Return whether a clear outline of a red cell fills the middle of a picture."""
    side = min(field.shape[:2])
    return any(
        _fills(cell, field)
        for share in FILLING
        for cell in find_cells(field, max(share * side, LEAST_DIAMETER)).cells
    )


def _fills(cell: Cell, field: Field) -> bool:
    height, width = field.shape[:2]
    side = min(height, width)
    away = float(np.hypot(*(cell.outline.mean(axis=0) - [width / 2, height / 2])))
    diameter = 2 * float(np.sqrt(cell.area / np.pi))
    is_clear = cell.kind == "red" and cell.edge >= CLEAR
    return is_clear and diameter >= LEAST_FILLED * side and away <= OFF_CENTRE * side
