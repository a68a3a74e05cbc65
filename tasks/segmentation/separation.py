"""Separate a cell from its neighbours: its rim, and what lies in two cells."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.measure import points_in_poly

from tasks.images.crops import TRAINING_DIAMETER, Points

MARGIN = 2  # pixels of a cut-out cell: the rim that training cells have round them
LEAST_REACH = 0.3  # of a ray of an outline; a smaller reach means another cell
REACHES = 64  # shares of a ray that are tried


def scale_of(diameter: float) -> float:
    """Compute how much to enlarge a field so that its median cell is as large as a training cell.

    Args:
        diameter: of the field's median cell in pixels.
    """
    return TRAINING_DIAMETER / diameter


def with_rim(outline: NDArray[np.floating], scale: float) -> Points:
    """Move an outline (n, 2) outwards by the rim that the training cells have round them.

    Args:
        outline: x and y in pixels of a field.
        scale: pixels of a cut-out cell for each of the field.
    """
    away = outline - outline.mean(axis=0)
    length = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    return np.asarray(outline + away / length * (MARGIN / scale), np.float32)


def apart(outlines: Sequence[NDArray[np.floating]], scale: float) -> list[Points]:
    """Add the rim to outlines (n, 2), and draw them in where they overlap another cell.

    Where two cells overlap it is twice as dark, and looks like a parasite. Each point is moved
    along its ray from the middle, to the rim's width before the other cell begins.

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
    """Find the share of each ray (n, 2) at which another outline begins, (n,); 1: nowhere."""
    shares = np.linspace(LEAST_REACH, 1, REACHES)
    points = middle + rays[:, np.newaxis] * shares[:, np.newaxis]
    near = ((points >= outline.min(axis=0)) & (points <= outline.max(axis=0))).all(axis=2)
    inside = np.zeros(near.shape, bool)
    inside[near] = points_in_poly(points[near], outline)
    return np.where(inside.any(axis=1), shares[inside.argmax(axis=1)], 1.0)
