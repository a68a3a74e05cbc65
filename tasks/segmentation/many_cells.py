"""Recognise a photograph of many cells that was given as a picture of one."""

import threading

import numpy as np
from PIL import Image

from tasks.images.decoding import not_a_cell
from tasks.images.geometry import scaled
from tasks.segmentation.cells import LEAST_DIAMETER, Cell, find_cells, find_roughly
from tasks.types import Field

SEARCHED = 640  # pixels of the longer side where cells are counted, so that memory is bounded
# The emptiest of 120 BCCD fields shows four; of 600 NIH cells, enlarged to 420 to 1,000 pixels,
# none shows more than two.
SEVERAL = 4
# Neighbours of a cell, and pieces of its rim where the middle is pale, are counted as cells too, so
# a clear outline that fills the middle decides. Of 345 cells of the vivax set, cut out with what
# surrounds them and enlarged as much, 17 are refused, and 45 would be without this.
FILLING = 0.8, 0.55  # diameters that are looked for, as shares of the shorter side
LEAST_FILLED = 0.45  # the same, of a cell that fills its picture
CLEAR = 0.9  # edge of its outline
OFF_CENTRE = 0.2  # of its middle from the picture's, as a share of the shorter side
# One picture at a time, for each takes up to 320 MB.
_COUNTING = threading.Lock()


def refuse_many_cells(picture: Image.Image) -> None:
    """Raise BadImageError where an RGB picture shows several whole cells and none that fills it."""
    with _COUNTING:
        count = whole_cells(np.asarray(picture))
    if count >= SEVERAL:
        raise not_a_cell(f"{picture.width} x {picture.height} pixels show {count} whole cells")


def whole_cells(field: Field) -> int:
    """Count the cells of a picture, RGB uint8 (h, w, 3), that its border does not cut.

    It is one where a single cell fills the picture, whatever lies beside it.
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
