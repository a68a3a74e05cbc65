"""Guess the diameter of the cells of a field of view, before any of them is found."""

import cv2
import numpy as np

from tasks.images.geometry import scaled
from tasks.smears.segmentation import contours
from tasks.smears.segmentation.absorbance import absorbance, inside, over_channels, stained
from tasks.types import Float, Pixels, Single

ROUGH_SIDES = 800, 1600  # pixels of a field's longer side for the first guess
LEAST_DEPTH = 5  # pixels from a typical cell's middle to its edge that are enough for that guess
LARGEST_PALLOR = 0.01  # of a field; a larger hole is no cell's
APART = 1.5  # depths between two places in the stain that count as two cells'


def guess_diameter(field: Pixels, around: Float | None) -> float:
    """Guess a cell's diameter in pixels from the depth of stained regions; NaN without any."""
    for side in ROUGH_SIDES:
        scale = min(1.0, side / max(field.shape[:2]))
        small = scaled(field, scale)
        mask = stained(over_channels(absorbance(small, inside(around, small.shape, scale))))
        # A cell's pallor is stained with it; what a pen has drawn a ring around is larger.
        holes = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4)
        mask |= (holes[2][:, cv2.CC_STAT_AREA] <= LARGEST_PALLOR * mask.size)[holes[1]]
        if mask.all() or not mask.any():
            return float("nan")
        deepest = _distinct_depths(contours.depths(mask))
        # Weighted because specks are many and cells are large, but a clump is larger still.
        typical = weighted_median(deepest, deepest**1.5)
        if typical >= LEAST_DEPTH or scale == 1:
            break
    return float(2 * typical / scale)


def _distinct_depths(depth: Single) -> Float:
    """List the depths, ascending, of places that lie further from deeper ones than those are deep.

    A cell has one of them, and a stroke of a pen few, although its whole middle is deepest.
    """
    taken = np.zeros(depth.shape, np.uint8)
    rows, columns = np.nonzero((depth > 0) & (depth == cv2.dilate(depth, np.ones((5, 5)))))
    found = depth[rows, columns]
    kept = []
    for i in np.argsort(-found, kind="stable").tolist():
        if not taken[rows[i], columns[i]]:
            cv2.circle(taken, (int(columns[i]), int(rows[i])), round(APART * found[i]), 1, -1)
            kept.append(found[i])
    return np.array(kept[::-1], np.float64)


def weighted_median(values: Float, weights: Float) -> float:
    """Compute the weighted median of sorted values (n,)."""
    total = np.cumsum(weights)
    return float(values[np.searchsorted(total, total[-1] / 2)])
