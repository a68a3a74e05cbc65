"""A cell cut out of its field as the training cells were: black surroundings, and their size."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.measure import points_in_poly

from tasks.absorbance import Field, Mask
from tasks.images import RESIZE

TRAINING_DIAMETER = 130  # pixels of the median cell of those that the network was trained on
# The training cells were cut out along blocks of pixels, with a rim of the bright ground round
# them. A detector takes cells that are cut out along their very edge for abnormal.
BLOCK = 4  # pixels at the size of the training cells
MARGIN = 2  # the same
LEAST_REACH = 0.3  # of a ray of an outline; who has less is another cell
REACHES = 64  # shares of a ray that are tried

Points = NDArray[np.float32]


def cut_out(pixels: Field, outline: Points | None, scale: float) -> Field:
    """A region at the training cells' size, (h, w, 3); or what an outline encloses, black outside.

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
    mask = coarsen(np.asarray(inside))
    # A cell that another one overlaps is smaller than its region.
    (y,), (x,) = (np.nonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(y):
        return np.zeros((1, 1, 3), np.uint8)
    tight = np.s_[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
    return np.asarray(picture[tight] * mask[tight][..., np.newaxis], np.uint8)


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


def apart(outlines: Sequence[NDArray[np.floating]], scale: float) -> list[Points]:
    """Outlines (n, 2) with their rim, drawn in where they overlap, so that no cell has another's.

    What lies in two cells is twice as dark, and looks like a parasite. Each point is moved along
    its ray from the middle, to the rim's width before the other cell begins.

    Args:
        outlines: of all cells of a field, in its pixels.
        scale: pixels of a cut-out cell for each of the field.
    """
    rimmed = [with_rim(outline, scale) for outline in outlines]
    low = np.array([outline.min(axis=0) for outline in outlines]).reshape(-1, 2)
    high = np.array([outline.max(axis=0) for outline in outlines]).reshape(-1, 2)
    found = []
    for i, rim in enumerate(rimmed):
        middle = rim.mean(axis=0)
        rays = rim - middle
        reach = np.ones(len(rim))
        meets = (low < rim.max(axis=0)).all(axis=1) & (high > rim.min(axis=0)).all(axis=1)
        for j in np.flatnonzero(meets).tolist():
            if j != i:
                reach = np.minimum(reach, _entry(middle, rays, outlines[j]))
        length = np.linalg.norm(rays, axis=1)
        drawn_in = np.maximum(reach - MARGIN / scale / np.maximum(length, 1e-6), LEAST_REACH)
        share = np.where(reach < 1, drawn_in, 1.0)
        found.append(np.asarray(middle + rays * share[:, np.newaxis], np.float32))
    return found


def _entry(
    middle: NDArray[np.floating], rays: NDArray[np.floating], outline: NDArray[np.floating]
) -> NDArray[np.float64]:
    """At which share of each ray (n, 2) from a middle another outline begins, (n,); 1: nowhere."""
    shares = np.linspace(LEAST_REACH, 1, REACHES)
    points = middle + rays[:, np.newaxis] * shares[:, np.newaxis]
    near = ((points >= outline.min(axis=0)) & (points <= outline.max(axis=0))).all(axis=2)
    inside = np.zeros(near.shape, bool)
    inside[near] = points_in_poly(points[near], outline)
    return np.where(inside.any(axis=1), shares[inside.argmax(axis=1)], 1.0)


def coarsen(mask: Mask) -> Mask:
    """The same mask (h, w) in square blocks, as segmentation at a low resolution leaves it."""
    y, x = (np.minimum(np.arange(n) // BLOCK * BLOCK + BLOCK // 2, n - 1) for n in mask.shape)
    return np.asarray(mask[np.ix_(y, x)])
