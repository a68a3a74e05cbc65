"""Cut cells out of a field like the training cells: the same size, with black surroundings."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tasks.images.geometry import rescaled, scaled
from tasks.types import Field, Mask

TRAINING_DIAMETER = 130  # pixels of the median training cell
# An outline lies in the middle of a cell's edge. Slightly within it there is no bright ground,
# which the network of another laboratory may take for a part of the cell.
WITHIN = 0.98  # of the outline's size
BLOCK = 4  # pixels at the size of the training cells: the NIH cells were cut out along such blocks
Points = NDArray[np.float32]


def cut_out(pixels: Field, outline: Points | None, scale: float) -> Field:
    """Cut out a region at the training cells' size, (h, w, 3), black outside an outline if given.

    Decoding resizes it to a square, as with the training cells: large and small cells then fill it
    alike, but the grain of a scaled field no longer reveals its magnification.

    Args:
        pixels: of the region, RGB uint8 (h, w, 3).
        outline: (n, 2), x and y in pixels of the region; the first pixel's middle is at 0.
        scale: output pixels per pixel of the region; see `scale_of`.
    """
    picture = scaled(pixels, scale)
    if outline is None:
        return picture
    size = picture.shape[1::-1]
    middle = outline.mean(axis=0)
    outline = middle + WITHIN * (outline - middle)
    corners = rescaled(outline, np.array(size) / pixels.shape[1::-1])
    inside = Image.new("1", size)
    ImageDraw.Draw(inside).polygon([(x, y) for x, y in corners.tolist()], fill=1)
    mask = np.asarray(inside)
    # A cell overlapped by another is smaller than its region.
    (y,), (x,) = (np.nonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(y):
        return np.zeros((1, 1, 3), np.uint8)
    tight = np.s_[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
    return np.asarray(picture[tight] * mask[tight][..., np.newaxis], np.uint8)


def coarsen(mask: Mask) -> Mask:
    """Coarsen a mask (h, w) to square blocks, like a segmentation at low resolution."""
    y, x = (np.minimum(np.arange(n) // BLOCK * BLOCK + BLOCK // 2, n - 1) for n in mask.shape)
    return np.asarray(mask[np.ix_(y, x)])
