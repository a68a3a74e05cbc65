"""A cell cut out of its field as the training cells were: black surroundings, and their size."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tasks.absorbance import Field, Mask
from tasks.images import RESIZE

TRAINING_DIAMETER = 130  # pixels of the median cell of those that the network was trained on
# The training cells were cut out along blocks of pixels, with a rim of the bright ground round
# them. A detector takes cells that are cut out along their very edge for abnormal.
BLOCK = 4  # pixels at the size of the training cells
MARGIN = 2  # the same

Points = NDArray[np.float32]


def cut_out(pixels: Field, outline: Points | None, scale: float) -> Field:
    """A region at the training cells' size, black outside an outline if there is one, (h, w, 3).

    What decodes it resizes it to a square, as it does with those: a large cell and a small one then
    fill it alike, but the grain of a scaled field no longer gives away its magnification.

    Args:
        pixels: of the region, RGB uint8 (h, w, 3).
        outline: (n, 2), x and y in pixels of the region; the middle of the first one is at 0.
        scale: pixels wanted for each pixel of the region; see `scale_of`.
    """
    height, width = pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.asarray(Image.fromarray(pixels).resize(size, RESIZE))
    if outline is None:
        return picture
    corners = (outline + 0.5) * (np.array(size) / [width, height]) - 0.5
    inside = Image.new("1", size)
    ImageDraw.Draw(inside).polygon([(x, y) for x, y in corners.tolist()], fill=1)
    return np.asarray(picture * coarsen(np.asarray(inside))[..., np.newaxis], np.uint8)


def scale_of(diameter: float) -> float:
    """How much larger a field must be, so that its median cell has the size of a training cell.

    Args:
        diameter: of the field's median cell in pixels.
    """
    return TRAINING_DIAMETER / diameter


def with_rim(outline: NDArray[np.floating], scale: float) -> Points:
    """An outline (n, 2) moved outwards by the rim that the training cells have round them.

    Args:
        outline: x and y in pixels of a field.
        scale: pixels of a cut-out cell for each of the field.
    """
    away = outline - outline.mean(axis=0)
    length = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    return np.asarray(outline + away / length * (MARGIN / scale), np.float32)


def coarsen(mask: Mask) -> Mask:
    """The same mask (h, w) in square blocks, as segmentation at a low resolution leaves it."""
    y, x = (np.minimum(np.arange(n) // BLOCK * BLOCK + BLOCK // 2, n - 1) for n in mask.shape)
    return np.asarray(mask[np.ix_(y, x)])
