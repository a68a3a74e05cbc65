"""Compute the light absorbed by the cells of a photographed field, find stain and white cells.

By the Beer-Lambert law, absorbance measures the stain, independently of lamp, exposure and
illumination: all thresholds are relative to the field's own background and cells. The nuclei of
white cells have another colour than red cells.
"""

from functools import reduce
from math import ceil

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.filters import threshold_otsu

from tasks.images.geometry import rescaled
from tasks.smears.segmentation import contours
from tasks.types import Float, Index, Mask, Pixels, Single

LOGARITHMS = np.log(np.maximum(np.arange(256), 1)).astype(np.float32)  # of all levels
HIGHEST_ABSORBANCE = 2.0  # less than a seventh of the light is left, mostly noise
LEVELS = 256  # of an amount, between which a threshold is sought
FITTED_PIXELS = 4_000  # enough for six coefficients
FITS = 8  # of the background, each to pixels that the last one called unstained
POWERS = [0, 1, 0, 2, 1, 0], [0, 0, 1, 0, 1, 2]  # of x and y in its six terms
# Added to the mean squares of the six terms, so that a single corner does not bend the surface.
STIFFNESS = (1e-6, 0.002, 0.002, 0.002, 0.002, 0.002)
RIM_SIDE = 256  # pixels of the picture's longer side in which the rim is sought
RIM_SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # of the light; the surroundings of the disc may glow
RIM = 0.03  # of a radius, to either side of the rim
# Mean logarithm of the fall of light over the rim, each at most 1: 119 telephones' pictures have
# 0.65 and more, 300 photographs of five laboratories without a disc 0.14 at most.
LEAST_FALL = 0.35
BAR = 1.3  # diameters: a shorter run may be a black cell
INK = 16  # levels from black or white
LEAST_FILLED = 0.6  # of the box around a bar
MOST_INK = 0.05  # of a field; more is its overexposed background
LEAST_CONTRAST = 0.03  # of the light; a paler cell is lost in errors of a lens and of JPEG
NOISE_MARGIN = 3.0  # twice the threshold that Otsu's method finds in white noise
# Kinds of nuclei: least absorbance away from the red cells' colour, and least absorbance, both in a
# red cell's, and least area, in a red cell's. Where red cells are purple themselves, a nucleus is
# dark or wide. Of the parasites of P. vivax, only ripe schizonts and some gametocytes are as large.
NUCLEI = ((0.7, 0.0, 0.5), (0.5, 1.5, 0.9), (0.3, 1.5, 1.4))
CYTOPLASM = 0.05  # the same for a white cell's cytoplasm
COLOURED = 0.25  # the same as a share of its own absorbance, which is higher in a dark red cell
PALEST = 0.2  # absorbance of a red cell; with a paler one, errors of colour look like a nucleus
LOBES_APART = 0.16  # to each side, within one nucleus
CYTOPLASM_DEPTH = 0.4  # from the nucleus to the edge of its cell at most
BRIDGE = 0.2  # across; a narrower one joins two white cells
SOME = 4  # pixels from one to the next of those that show the red cells' colour
LARGEST_NUCLEUS = 5.0  # across, with its lobes; a larger one is no cell, and in one piece a pen's
# Median absorbance of red light, which stains let pass, but pens and print do not, if not red.
# Of 460 large nuclei of seven laboratories 457 have 1.32 at most; the others are dirt.
OPAQUE = 1.5


def absorbance(field: Pixels, lit: Mask | None = None) -> Single:
    """Compute the absorbance of each pixel, ``-ln(light / background)``, at least 0; (h, w, 3).

    It is 0 where ``lit`` (h, w), by default all of the field, is not set.
    """
    lit = np.ones(field.shape[:2], bool) if lit is None else lit
    levels = np.asarray(cv2.LUT(field, LOGARITHMS), np.float32)
    amount = _background(levels, lit)
    amount -= levels
    if not lit.all():
        amount[~lit] = 0
    return np.clip(amount, 0, HIGHEST_ABSORBANCE, out=amount)


def over_channels(colour: Single) -> Single:
    """Combine the absorbance over all channels, (h, w)."""
    squares = cv2.transform(colour * colour, np.ones((1, 3), np.float32))
    return np.asarray(np.sqrt(squares, out=squares))


def stained(amount: Single) -> Mask:
    """Mark the stained pixels of absorbance over all channels, (h, w); none of only noise."""
    if amount.size == 0 or np.ptp(amount) == 0:
        return np.zeros(amount.shape, bool)
    noise = _noise(amount)
    # A few dark nuclei would raise a threshold on plain absorbance above the red cells.
    spread = np.log1p(amount / np.float32(max(noise, LEAST_CONTRAST)))
    mask: Mask = spread > _otsu(spread)
    inside = mask.view(np.uint8)
    contrast = cv2.mean(amount, inside)[0] - cv2.mean(amount, 1 - inside)[0]
    if contrast < max(LEAST_CONTRAST, NOISE_MARGIN * noise):
        return np.zeros(amount.shape, bool)
    return mask


def _background(levels: Single, lit: Mask) -> Single:
    """Fit the logarithm of the light without cells, smooth over the unstained pixels; (h, w, 3).

    A quadratic surface follows the lamp's fall towards the edges. It starts from the brighter half
    of Otsu's threshold, then takes in the background of dimmer corners.
    """
    height, width = levels.shape[:2]
    step = max(1, int(np.sqrt(height * width / FITTED_PIXELS)))
    known = levels[::step, ::step]
    x, y = (np.vander(np.linspace(-1, 1, n), 3, increasing=True) for n in (width, height))
    terms = (x[::step, POWERS[0]] * y[::step, np.newaxis, POWERS[1]]).reshape(-1, 6)
    inside = lit[::step, ::step].ravel()
    samples = np.hstack([terms, known.reshape(-1, 3)])[inside]
    if not len(samples):  # nothing is lit, so nothing is stained
        return levels.copy()
    brightness = samples[:, 6:].mean(axis=1)
    unstained = brightness >= threshold_otsu(brightness)
    for _ in range(FITS):
        some = np.compress(unstained, samples, axis=0)
        squares = some[:, :6].T @ some / len(some)
        weights = np.linalg.solve(squares[:, :6] + np.diag(STIFFNESS), squares[:, 6:])
        darker = samples[:, :6] @ weights.mean(axis=1) - brightness
        spread = 1.4826 * contours.median(np.abs(darker[unstained])) + 0.005
        before, unstained = unstained, np.abs(darker) < 2.5 * spread
        if not unstained.any() or np.array_equal(unstained, before):
            break
    surface = np.zeros((3, 3, 3))
    surface[POWERS] = weights
    across = np.einsum("wi,ijc->jwc", x, surface).reshape(3, -1)
    rows = np.asarray(y.astype(np.float32) @ across.astype(np.float32))
    return rows.reshape(levels.shape)


def rim(field: Pixels) -> Float | None:
    """Find the outline (n, 2) of the disc that an eyepiece lights; None without one.

    A telephone at an eyepiece sees a bright disc on black, which the picture may cut. Of the convex
    hulls of pixels above some share of the light, the disc's has the steepest fall of light across
    it; ordinary photographs have none.
    """
    step = max(1, max(field.shape[:2]) // RIM_SIDE)
    some = field[::step].take(np.arange(0, field.shape[1], step), axis=1)  # twice as fast as slices
    light = reduce(np.maximum, cv2.split(some))
    levels = cv2.calcHist([light], [0], None, [256], [0, 256]).cumsum()
    top = np.searchsorted(levels, 0.95 * light.size)
    best, steepest = None, LEAST_FALL
    for share in RIM_SHARES:
        bright = (light > int(share * top)).view(np.uint8)
        parts, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not parts:
            continue
        hull = cv2.convexHull(max(parts, key=cv2.contourArea))
        if cv2.contourArea(hull) == (light.shape[0] - 1) * (light.shape[1] - 1):
            continue  # it is all of the picture
        corners = np.asarray(hull[:, 0], np.float64)
        middle, points = corners.mean(axis=0), contours.resampled(corners)
        inner, outer = (
            np.rint(middle + (1 + side * RIM) * (points - middle)).astype(np.intp)
            for side in (-1, 1)
        )
        within = ((outer >= 0) & (outer < light.shape[::-1])).all(axis=1)
        below, above = (LOGARITHMS[light[y, x]] for x, y in (outer[within].T, inner[within].T))
        fall = float(np.clip(above - below, -1, 1).sum()) / len(points)
        if fall > steepest:
            best, steepest = step * points, fall
    return best


def inside(rim: Float | None, shape: tuple[int, ...], scale: float) -> Mask:
    """Mark the pixels of a scaled field (h, w) that lie within its `rim`, without its blur."""
    if rim is None:
        return np.ones(shape[:2], bool)
    middle = rim.mean(axis=0)
    within = rescaled(middle + (1 - RIM) * (rim - middle), scale)
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(within).astype(np.int32), 1)
    return mask.view(bool)


def without_bars(field: Pixels, lit: Mask, diameter: int) -> Mask:
    """Leave out of ``lit`` (h, w) the scale bars that were drawn into a field, and their text.

    A bar is a black or white rectangle longer than a cell. What is within a cell's diameter of one
    is left out, too.
    """
    seen = lit.copy()
    run = np.ones((1, round(BAR * diameter)), np.uint8)
    for low, high in ((0, INK), (255 - INK, 255)):
        ink = cv2.inRange(field, (low,) * 3, (high,) * 3) & lit.view(np.uint8)
        if run.size <= np.count_nonzero(ink) < MOST_INK * ink.size:
            runs = cv2.morphologyEx(ink, cv2.MORPH_OPEN, run)
            if not runs.any():
                continue
            _, _, parts, _ = cv2.connectedComponentsWithStats(runs)
            for x, y, width, height, area in parts[1:].tolist():
                if height > 1 and area >= LEAST_FILLED * width * height:
                    around = [
                        slice(max(0, at - diameter), at + n + diameter)
                        for at, n in ((y, height), (x, width))
                    ]
                    seen[*around] = False
    return seen


def _otsu(amount: Single) -> float:
    """Find Otsu's threshold of an amount (h, w) that is not the same everywhere."""
    low, high = float(amount.min()), float(amount.max())
    edges = np.linspace(low, high, LEVELS + 1)
    above = float(np.nextafter(amount.max(), np.float32(np.inf)))  # the last level has its end
    counts = cv2.calcHist([amount], [0], None, [LEVELS], [low, above]).ravel()
    return float(threshold_otsu(hist=(counts, (edges[1:] + edges[:-1]) / 2)))


def _noise(amount: Single) -> float:
    """Estimate the standard deviation between pixels by the median over the field."""
    fine = (amount - cv2.blur(amount, (3, 3), borderType=cv2.BORDER_REFLECT))[::2, ::2]
    # The mean of nine includes a ninth of the pixel itself.
    return 1.4826 * contours.median(np.abs(fine).ravel()) / float(np.sqrt(8 / 9))


def white_outlines(
    colour: Single, amount: Single, mask: Mask, typical: float, working: int, *, dark: bool
) -> tuple[list[contours.Outline], Mask]:
    """Find white cells: large nuclei of another colour than red cells, with their cytoplasm.

    Return their outlines, and mark the pixels (h, w) of words and strokes that were drawn.
    ``dark`` ones, of nearly the red cells' colour, are white cells only if that is asked for.
    Cytoplasm has some of the nucleus' colour and is near it. The cell is the convex hull of both.
    ``typical`` is the median amount of stained pixels.
    """
    some = np.flatnonzero(mask & (amount < 1.5 * typical))[::SOME]
    eosin = np.array([*map(contours.median, colour.reshape(-1, 3).take(some, axis=0).T.copy())])
    eosin /= np.linalg.norm(eosin)
    eosin_alone = np.asarray(cv2.transform(colour, eosin[np.newaxis]), np.float32)
    squares = (amount - eosin_alone) * (amount + eosin_alone)
    azure = np.sqrt(np.maximum(squares, 0, out=squares), out=squares)
    smooth = contours.gaussian(contours.SMOOTHING * working)
    azure = contours.filtered(azure, smooth, smooth)
    unit, depth = max(typical, PALEST), CYTOPLASM_DEPTH * working
    nuclei = np.zeros(mask.shape, bool)
    for away, darkness, area in NUCLEI if dark else NUCLEI[:1]:
        bodies = (azure > away * unit) & (amount >= darkness * typical)
        nuclei |= _large(bodies, area * np.pi / 4 * working**2, working)
    if not nuclei.any():
        return [], nuclei
    groups, outlines = _lobes_together(nuclei, working), list[contours.Outline]()
    written = _written(nuclei, groups, colour[..., 0] > OPAQUE, working)
    for i, place in enumerate(ndimage.find_objects(groups), start=1):
        if _across(place) > LARGEST_NUCLEUS * working:
            continue
        window = tuple(
            slice(max(part.start - ceil(depth), 0), part.stop + ceil(depth)) for part in place
        )
        nucleus = nuclei[window] & (groups[window] == i)
        if written[window][nucleus].any():
            continue
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
        hull = _hull(of_nucleus[parts])
        hull += window[1].start, window[0].start
        outlines.append((contours.resampled(hull), 1.0))
    return outlines, written


def _hull(cell: Mask) -> Float:
    """Return the corners (n, 2) of the convex hull of the pixels of a cell."""
    y, x = np.nonzero(cell)
    # The corners of the first and the last pixel of each row, so that even a streak has a hull.
    begins = np.diff(y, prepend=-1) != 0
    corners = [
        np.column_stack([x[ends] + right, y[ends] + down])
        for ends, right in ((begins, -0.5), (np.roll(begins, -1), 0.5))
        for down in (-0.5, 0.5)
    ]
    hull = ConvexHull(np.concatenate(corners))
    return np.asarray(hull.points[hull.vertices])


def _large(bodies: Mask, least: float, working: int) -> Mask:
    """Keep bodies (h, w) that have, with the lobes near them, at least ``least`` pixels."""
    if np.count_nonzero(bodies) < least:
        return np.zeros_like(bodies)
    groups = _lobes_together(bodies, working)
    return np.asarray(bodies & (np.bincount(groups[bodies]) >= least)[groups])


def _written(nuclei: Mask, groups: Index, opaque: Mask, working: int) -> Mask:
    """Mark numbered groups of nuclei (h, w) that are opaque, or a piece of which is no nucleus."""
    written = np.zeros_like(nuclei)
    for i, place in enumerate(ndimage.find_objects(groups), start=1):
        body = nuclei[place] & (groups[place] == i)
        largest = max(map(_across, ndimage.find_objects(ndimage.label(body)[0])))
        if largest > LARGEST_NUCLEUS * working or opaque[place][body].mean() > 0.5:
            written[place] |= body
    return written


def _across(place: tuple[slice, ...]) -> int:
    return int(max(part.stop - part.start for part in place))


def _lobes_together(nuclei: Mask, working: int) -> Index:
    """Number the nuclei of which pixels (h, w) are parts, from 1; lobes of one lie near."""
    near = cv2.dilate(
        nuclei.view(np.uint8), contours.CROSS, iterations=round(LOBES_APART * working)
    )
    return np.asarray(cv2.connectedComponents(near, connectivity=4)[1])
