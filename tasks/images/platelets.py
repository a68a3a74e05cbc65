"""Find a platelet that lies at the rim of a cell, where a network may take it for a parasite.

Parasites lie within their cell. A platelet that touches a red cell lies across its outline, and is
the only stained thing there; it measures 2 to 3 micrometres where the cell measures 7 to 8. Stain
is the absorbance of green light over that of the cell itself, so neither the slide's stain nor the
camera's colours matter.
"""

import numpy as np

from tasks.types import Array, Float, Mask, Pixels

# Nats by which the log-odds of "parasitized" fall where a platelet lies at the rim. Of 54 patients'
# cells that folds called parasitized, 7 of 19 of healthy patients had one, and 10 of 4,301 with a
# parasite: the logarithm of that ratio is -5.1.
PLATELET = 5.0
SUSPECTED = -2.0  # log-odds by the network from which cells are examined
LEAST_AREA, LARGEST_AREA = 0.025, 0.1  # of the cell's: schizonts and gametocytes are larger
OUTSIDE = 0.2  # of the thing's own outline, at the outline of the cell
ALONE = 0.95  # of all stain: several things are parasites or settled stain
PEAK = 0.995  # the quantile of a cell's stain that is its strongest
OF_PEAK = 0.45  # of the strongest: the outline of a thing
LEAST_STAIN = 0.12  # absorbance over the cell's
LIT = 0.6  # of the cell's brightest channel: darker pixels are mixed with the black surroundings
SMOOTHED = 0.8  # pixels, the deviation of a blur
LEAST_CELL = 50  # pixels
LOGARITHMS = np.log(np.maximum(np.arange(256), 1)).astype(np.float32)  # of all levels
LEAST_SIDE = 64  # pixels of a picture: a smaller one hardly shows a platelet


def has_platelet(pixels: Pixels) -> bool:
    """Return whether a platelet lies at the rim of a cell (side, side, 3) on black.

    Pictures smaller than `LEAST_SIDE` are not examined.
    """
    # Few cells of a night are examined; whoever reads features does without.
    import cv2

    # A picture that was turned is not contiguous, which OpenCV asks for.
    red, green, blue = cv2.split(np.ascontiguousarray(pixels))
    brightest = cv2.max(cv2.max(red, green), blue)
    seen = (brightest > 0).astype(np.uint8)
    if len(pixels) < LEAST_SIDE or cv2.countNonZero(seen) < LEAST_CELL:
        return False
    lit = (brightest > LIT * _median(brightest, seen)).astype(np.uint8)
    outlines, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cell: Array = np.zeros(lit.shape, np.uint8)
    cv2.drawContours(cell, [max(outlines, key=len)], -1, 1, -1)
    cell = cv2.erode(cell, np.ones((3, 3), np.uint8), borderValue=0)
    size = cv2.countNonZero(cell)
    if size < LEAST_CELL:
        return False
    inside = cell.astype(np.float32)
    stain = (LOGARITHMS[_median(green, cell)] - cv2.LUT(green, LOGARITHMS)) * inside
    weight = np.maximum(cv2.GaussianBlur(inside, (0, 0), SMOOTHED), 0.1)
    stain = cv2.GaussianBlur(stain, (0, 0), SMOOTHED) / weight * inside
    strong = round(size * (1 - PEAK))
    peak = np.partition(stain.ravel(), -1 - strong)[-1 - strong]
    things = (stain > max(LEAST_STAIN, OF_PEAK * peak)).astype(np.uint8)
    count, labels = cv2.connectedComponents(things)
    if count < 2:
        return False
    amounts = np.bincount(labels[things > 0], stain[things > 0])
    thing = (labels == amounts.argmax()).astype(np.uint8)
    area = cv2.countNonZero(thing) / size
    if amounts.max() < ALONE * amounts.sum() or not LEAST_AREA < area < LARGEST_AREA:
        return False
    around = (cv2.dilate(thing, np.ones((3, 3), np.uint8)) > 0) & (thing == 0)
    within = cv2.erode(cell, np.ones((3, 3), np.uint8), borderValue=0)
    return float((within[around] == 0).mean()) > OUTSIDE


def _median(channel: Array, mask: Array) -> int:
    """Find the median of a channel uint8 (h, w) within a mask (h, w)."""
    import cv2

    below = np.cumsum(cv2.calcHist([channel], [0], mask, [256], [0, 256]))
    return int(np.searchsorted(below, below[-1] / 2))


def without_platelets(log_odds: Float, platelet: Pixels | Mask | None) -> Float:
    """Lower log-odds (n,) of "parasitized" where a ``platelet`` (n,) lies at the rim of a cell.

    >>> without_platelets(np.asarray([7.0, 7.0]), np.asarray([0, 1]))
    array([7., 2.])
    """
    return log_odds if platelet is None else np.asarray(log_odds - PLATELET * (platelet > 0))
