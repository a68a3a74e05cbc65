"""Find white cells by their nuclei, which have another colour than red cells."""

from math import ceil

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from tasks.smears.segmentation import contours
from tasks.types import Mask, Single

NUCLEUS = 0.7  # absorbance away from the red cells' colour, in absorbances of a red cell
CYTOPLASM = 0.05  # the same for a white cell's cytoplasm
COLOURED = 0.25  # the same as a share of its own absorbance, which is higher in a dark red cell
PALEST = 0.2  # absorbance of a red cell; with a paler one, errors of colour look like a nucleus
LEAST_NUCLEUS = 0.25  # area; the parasites of a red cell are smaller, except a ripe schizont
LOBES_APART = 0.16  # to each side, within one nucleus
CYTOPLASM_DEPTH = 0.4  # from the nucleus to the edge of its cell at most
BRIDGE = 0.2  # across; a narrower one joins two white cells


def white_outlines(
    colour: Single, amount: Single, mask: Mask, typical: float, working: int
) -> list[contours.Outline]:
    """Find white cells: large nuclei of another colour than red cells, with their cytoplasm.

    Cytoplasm has some of the nucleus' colour and is near it. The cell is the convex hull of both.
    ``typical`` is the median amount of stained pixels.
    """
    some = np.flatnonzero(mask & (amount < 1.5 * typical))
    eosin = np.array([contours.median(channel) for channel in colour.reshape(-1, 3)[some].T])
    eosin /= np.linalg.norm(eosin)
    eosin_alone = np.asarray(cv2.transform(colour, eosin[np.newaxis]), np.float32)
    azure = np.sqrt(np.maximum((amount - eosin_alone) * (amount + eosin_alone), 0))
    smooth = contours.gaussian(contours.SMOOTHING * working)
    azure = contours.filtered(azure, smooth, smooth)
    unit = max(typical, PALEST)
    nuclei = azure > NUCLEUS * unit
    depth, least = CYTOPLASM_DEPTH * working, LEAST_NUCLEUS * np.pi / 4 * working**2
    if np.count_nonzero(nuclei) < least:
        return []
    together = cv2.dilate(
        nuclei.view(np.uint8), contours.CROSS, iterations=round(LOBES_APART * working)
    )
    groups, _ = ndimage.label(together)
    outlines = []
    for i, place in enumerate(ndimage.find_objects(groups), start=1):
        if np.count_nonzero(nuclei[place] & (groups[place] == i)) < least:
            continue
        window = tuple(
            slice(max(part.start - ceil(depth), 0), part.stop + ceil(depth)) for part in place
        )
        nucleus = nuclei[window] & (groups[window] == i)
        near = contours.depths(~nucleus) <= depth
        coloured = azure[window] > np.maximum(CYTOPLASM * unit, COLOURED * amount[window])
        body = cv2.morphologyEx(
            (near & coloured).view(np.uint8), cv2.MORPH_OPEN, contours.CROSS,
            iterations=max(1, round(BRIDGE / 2 * working)), borderType=cv2.BORDER_CONSTANT,
            borderValue=0,
        )  # fmt: skip
        parts, number = ndimage.label(body | nucleus)
        of_nucleus = np.zeros(number + 1, bool)
        of_nucleus[parts[nucleus]] = True
        y, x = np.nonzero(of_nucleus[parts])
        # The corners of the first and the last pixel of each row, so that even a streak has a hull.
        begins = np.diff(y, prepend=-1) != 0
        corners = [
            np.column_stack([x[ends] + right, y[ends] + down])
            for ends, right in ((begins, -0.5), (np.roll(begins, -1), 0.5))
            for down in (-0.5, 0.5)
        ]
        hull = ConvexHull(np.concatenate(corners))
        outline = hull.points[hull.vertices] + [window[1].start, window[0].start]
        outlines.append((contours.resampled(outline), 1.0))
    return outlines
