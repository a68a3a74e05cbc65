"""Find white cells by their nuclei, which are large and of another colour than red cells.

Lengths are in diameters of the median red cell, areas in those of a circle of this diameter.
"""

from math import ceil

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from tasks.segmentation.absorbance import over_channels
from tasks.segmentation.contours import (
    ANGLES,
    CROSS,
    SMOOTHING,
    Outline,
    depths,
    filtered,
    gaussian,
)
from tasks.types import Amount, Float, Mask

NUCLEUS = 0.7  # absorbance away from the red cells' colour, in absorbances of a red cell
CYTOPLASM = 0.05  # the same for a white cell's cytoplasm
COLOURED = 0.25  # the same as a share of its own absorbance, which is higher in a dark red cell
PALEST = 0.2  # absorbance of a red cell; with a paler one, errors of colour look like a nucleus
LEAST_NUCLEUS = 0.25  # area; the parasites of a red cell are smaller, except a ripe schizont
LOBES_APART = 0.16  # to each side, within one nucleus
CYTOPLASM_DEPTH = 0.4  # from the nucleus to the edge of its cell at most
CORNERS = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])  # of a pixel
BRIDGE = 0.2  # across; a narrower one joins two white cells


def white_outlines(colour: Amount, amount: Amount, mask: Mask, working: int) -> list[Outline]:
    """Find white cells: large nuclei of another colour than red cells, with their cytoplasm.

    Cytoplasm has some of the nucleus' colour and is near it. The cell is the convex hull of both.
    """
    typical = float(np.median(amount[mask]))
    red = mask & (amount < 1.5 * typical)
    eosin = np.array([np.median(channel[red]) for channel in cv2.split(colour)])
    eosin /= np.linalg.norm(eosin)
    other = np.eye(3) - np.outer(eosin, eosin)
    azure = over_channels(np.asarray(cv2.transform(colour, other), np.float32))
    smooth = gaussian(SMOOTHING * working)
    azure = filtered(azure, smooth, smooth)
    unit = max(typical, PALEST)
    nuclei = azure > NUCLEUS * unit
    together = cv2.dilate(nuclei.view(np.uint8), CROSS, iterations=round(LOBES_APART * working))
    groups, _ = ndimage.label(together)
    depth, least = CYTOPLASM_DEPTH * working, LEAST_NUCLEUS * np.pi / 4 * working**2
    found = []
    for i, place in enumerate(ndimage.find_objects(groups), start=1):
        if np.count_nonzero(nuclei[place] & (groups[place] == i)) < least:
            continue
        window = tuple(
            slice(max(part.start - ceil(depth), 0), part.stop + ceil(depth)) for part in place
        )
        nucleus = nuclei[window] & (groups[window] == i)
        near = depths(~nucleus) <= depth
        coloured = azure[window] > np.maximum(CYTOPLASM * unit, COLOURED * amount[window])
        body = ndimage.binary_opening(
            near & coloured, iterations=max(1, round(BRIDGE / 2 * working))
        )
        parts, _ = ndimage.label(body | nucleus)
        pixels = np.argwhere(np.isin(parts, np.unique(parts[nucleus])))[:, ::-1]
        # The corners of pixels, so that even a streak has a hull.
        hull = ConvexHull(np.concatenate([pixels + corner for corner in CORNERS]))
        corners = hull.points[hull.vertices] + [window[1].start, window[0].start]
        found.append((_resampled(corners), 1.0))
    return found


def _resampled(corners: Float) -> Float:
    """Resample a convex outline (n, 2) to `ANGLES` points at equal distances along it."""
    ring = np.concatenate([corners, corners[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(ring, axis=0), axis=1))])
    at = np.linspace(0, along[-1], ANGLES, endpoint=False)
    return np.stack([np.interp(at, along, ring[:, k]) for k in (0, 1)], axis=1)
