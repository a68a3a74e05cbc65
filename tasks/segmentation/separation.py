"""Separate a cell from its neighbours: its rim, and overlaps."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.measure import points_in_poly

from tasks.images.geometry import TRAINING_DIAMETER, Points

MARGIN = 2  # pixels of a cut-out cell: the rim around training cells
LEAST_REACH = 0.3  # of a ray of an outline; a smaller reach means another cell
SHARES = np.linspace(LEAST_REACH, 1, 64)  # of a ray that are tried


def scale_of(diameter: float) -> float:
    """Compute the factor that makes a field's median cell as large as a training cell.

    Args:
        diameter: of the field's median cell in pixels.
    """
    return TRAINING_DIAMETER / diameter


def with_rim(outline: NDArray[np.floating], scale: float) -> Points:
    """Move an outline (n, 2) outwards by the rim around training cells.

    Args:
        outline: x and y in pixels of a field.
        scale: pixels of a cut-out cell for each of the field.
    """
    away = outline - outline.mean(axis=0)
    length = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    return np.asarray(outline + away / length * (MARGIN / scale), np.float32)


def apart(
    outlines: Sequence[NDArray[np.floating]], rims: Sequence[Points], scale: float
) -> list[Points]:
    """Draw outlines with their rims (n, 2) in where they overlap another cell.

    Where two cells overlap it is twice as dark, and looks like a parasite. Each point is moved
    along its ray from the middle, to the rim's width before the other cell begins.

    Args:
        outlines: of all cells of a field, in its pixels.
        rims: the same `with_rim`.
        scale: pixels of a cut-out cell for each of the field.
    """
    low = np.array([outline.min(axis=0) for outline in outlines]).reshape(-1, 2)
    high = np.array([outline.max(axis=0) for outline in outlines]).reshape(-1, 2)
    found = []
    for i, rim in enumerate(rims):
        middle = rim.mean(axis=0)
        rays = rim - middle
        meets = (low < rim.max(axis=0)).all(axis=1) & (high > rim.min(axis=0)).all(axis=1)
        meets[i] = False
        others = [outlines[j] for j in np.flatnonzero(meets).tolist()]
        reach = _entry(middle, rays, others) if others else np.ones(len(rim))
        length = np.linalg.norm(rays, axis=1)
        drawn_in = np.maximum(reach - MARGIN / scale / np.maximum(length, 1e-6), LEAST_REACH)
        share = np.where(reach < 1, drawn_in, 1.0)
        found.append(np.asarray(middle + rays * share[:, np.newaxis], np.float32))
    return found


def _entry(
    middle: NDArray[np.floating], rays: Points, others: Sequence[NDArray[np.floating]]
) -> NDArray[np.float64]:
    """Find the share of each ray (n, 2) at which any other outline begins, (n,); 1: nowhere."""
    points = middle + rays[:, np.newaxis] * SHARES[:, np.newaxis]
    x, y = points[..., 0], points[..., 1]
    inside = np.zeros(x.shape, bool)
    for outline in others:
        (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
        near = (x >= left) & (x <= right) & (y >= top) & (y <= bottom) & ~inside
        inside[near] = points_in_poly(points[near], outline)
    return np.where(inside.any(axis=1), SHARES[inside.argmax(axis=1)], 1.0)
