"""A cell cut out of its field as the training cells were: black surroundings, and their size."""

import numpy as np
from PIL import Image, ImageDraw

from tasks.absorbance import Field
from tasks.cells import Cell
from tasks.images import RESIZE

TRAINING_DIAMETER = 130  # pixels of the median cell of those that the network was trained on


def cut_out(field: Field, cell: Cell, diameter: float) -> Field:
    """A cell in its box, black outside its outline, RGB uint8 (h, w, 3).

    It is scaled so that the field's median cell is as wide as that of the training cells, whatever
    the magnification. What decodes it resizes it to a square, as it does with those: a large cell
    and a small one then fill it alike, but the grain of a scaled field no longer gives away its
    magnification.

    Args:
        field: RGB uint8 (h, w, 3).
        cell: one of `tasks.cells.find_cells` in this field.
        diameter: of the field's median cell in pixels.
    """
    x, y, width, height = cell.box
    scale = TRAINING_DIAMETER / diameter
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(field[y : y + height, x : x + width]).resize(size, RESIZE)
    outline = (cell.outline + 0.5 - [x, y]) * (np.array(size) / [width, height]) - 0.5
    inside = Image.new("1", size)
    ImageDraw.Draw(inside).polygon([(px, py) for px, py in outline.tolist()], fill=1)
    return np.asarray(np.asarray(picture) * np.asarray(inside)[..., np.newaxis], np.uint8)
