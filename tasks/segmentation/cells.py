"""Find the cells of a field of view: an outline, a box and a kind of each.

Everything is measured in diameters of the field's own median cell and in absorbances of its own
background and cells, so that magnification, exposure and stain do not matter.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, KDTree
from skimage.draw import polygon

from tasks.images.decoding import BadImageError
from tasks.images.geometry import Box, box_around, rescaled, scaled, size_at
from tasks.segmentation.absorbance import absorbance, stained
from tasks.segmentation.contours import ANGLES, SMOOTHING, Float, edges, enclosed_area, seeds, trace
from tasks.types import Amount, Field, Mask

Kind = Literal["red", "white"]
Outline = tuple[Float, float]  # its points (angles, 2), and the edge averaged over those seen

# Lengths are in diameters of the median cell, areas in those of a circle of this diameter.
WORKING_DIAMETER = 48  # pixels of the median cell where it is searched; a larger one finds no more
ROUGH_DIAMETER = 24  # the same where only the diameter is looked for, and for rings
ROUGH_SIDES = 800, 1600  # pixels of a field's longer side where the first guess is made
LEAST_DEPTH = 5  # pixels of a typical cell's middle to its edge that are enough for that guess
LEAST_DIAMETER = 8  # pixels; of a smaller cell nothing can be diagnosed
ROUNDS = 4  # of searching with the diameter that the last round found
STEADY = 0.1  # change of the diameter, as a share, after which the next would be small
RADII = np.array([0.38, 0.45, 0.53, 0.62])  # of the rings; an outline may be half as wide again
LEAST_RING = 0.1  # edge, 0 to 1, averaged over a ring; of a long or a pale cell few rings see much
CLOSEST = 0.25  # of two rings of one radius
# In fields packed with cells, and in tissue, as many are found as 10 to each cell that fits in.
RINGS_A_CELL = 20
MOST_SEARCHED = 24_000_000  # pixels of a field where it is searched; each takes 100 bytes
LONGEST_SEARCHED = 32_000  # pixels of its longer side there; OpenCV counts so far and no further
ALIKE = 0.08  # of two outlines' middles, in diameters
SAMPLED = np.sqrt((np.arange(6) + 0.5) / 6)[:, np.newaxis, np.newaxis]  # of a radius, by area
CLEAR = 0.7  # edge that counts as a whole one: pale cells have outlines too
LEAST_EDGE = 0.7  # averaged over an outline, as a share of a clear one
HOPELESS = 0.5  # the same of a first, coarse outline that is not worth a second
LEAST_SEEN = 0.5  # share of an outline that lies within the field
LEAST_STAINED = 0.25  # share of a cell; pallor is as bright as the background
LEAST_SIZE = 0.7  # of a cell, in diameters; platelets and the overlap of two cells are smaller
# Clearer outlines may cover as large a share of a cell as its edge exceeds this: a pale cell is
# sure where it lies alone, in a heap only a clear one.
LEAST_EDGE_COVERED = 0.58
PREFERRED_SIZE = 1.2  # in diameters; of two outlines the smaller is more often a part of the cell
SIZE_PRIOR = 0.7  # edge that is lost by a cell e times as wide as `PREFERRED_SIZE`
CUT_PRIOR = 0.35  # edge that would be lost by a cell of which nothing is seen
DARKEST = 2.5  # absorbances of a red cell; more would make a nucleus the only clear edge
NUCLEUS = 0.7  # absorbance away from the red cells' colour, in absorbances of a red cell
CYTOPLASM = 0.05  # the same of a white cell's cytoplasm
COLOURED = 0.25  # the same as a share of its own absorbance, of which a dark red cell has more
PALEST = 0.2  # absorbance of a red cell; beside a paler one, errors of colour look like a nucleus
LEAST_NUCLEUS = 0.25  # area; the parasites of a red cell are smaller, but for a ripe schizont
LOBES_APART = 0.16  # to each side, for one nucleus
CYTOPLASM_DEPTH = 0.4  # from the nucleus to the edge of its cell at most
CORNERS = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])  # of a pixel
BRIDGE = 0.2  # across; what is narrower joins a white cell to another one


@dataclass(frozen=True)
class Cell:
    """Describe a cell in a field of view.

    ``box`` is x, y, width and height in pixels of the field; ``outline`` (angles, 2) its x and y
    there, which may lie outside the field; ``area`` what lies within, in square pixels; ``edge``,
    0 to 1, how much of the outline is a clear edge; 1 of a white cell, which is found by its
    nucleus. ``kind`` is a hint by that, no diagnosis.
    """

    box: Box
    outline: Float
    area: float
    edge: float
    touches_border: bool
    kind: Kind


@dataclass(frozen=True)
class Cells:
    """List a field's cells in reading order, with the median red cell's diameter in pixels or NaN.

    Outlines of cells that lie over one another overlap.
    """

    cells: tuple[Cell, ...]
    diameter: float


def find_cells(field: Field, diameter: float | None = None) -> Cells:
    """Find the cells of a field of view, RGB uint8 (h, w, 3).

    A field without cells, of nothing but noise or of one colour has none.

    Args:
        field: RGB uint8 (h, w, 3).
        diameter: of a typical red cell in pixels, where the magnification is known; it saves half
            of the time, and one field's median is less sure.

    Raises:
        ValueError: the field is not RGB, or the diameter is below `LEAST_DIAMETER`.
    """
    if field.ndim != 3 or field.shape[2] != 3 or field.dtype != np.uint8:
        raise ValueError(f"a field is RGB uint8 (h, w, 3), not {field.dtype} {field.shape}")
    if diameter is None:
        diameter = typical_diameter(field)
        if not diameter >= LEAST_DIAMETER:
            return Cells((), float("nan"))
    elif not LEAST_DIAMETER <= diameter < np.inf:
        raise ValueError(
            f"a diameter is that of a typical red cell in pixels, at least {LEAST_DIAMETER}, not "
            f"{diameter}: enlarge the field, or leave the diameter out to have it measured"
        )
    cells = _search(field, diameter, WORKING_DIAMETER)
    return _in_reading_order(cells, _median_diameter(cells))


def typical_diameter(field: Field) -> float:
    """Estimate the diameter of a field's median cell in pixels, to some percent; NaN without cells.

    Args:
        field: RGB uint8 (h, w, 3).
    """
    return find_roughly(field).diameter


def find_roughly(field: Field) -> Cells:
    """Find most cells of a field of view, RGB uint8 (h, w, 3), in half the time of `find_cells`."""
    diameter, cells = _guess_diameter(field), list[Cell]()
    for _ in range(ROUNDS):
        if not diameter >= LEAST_DIAMETER:
            return Cells((), float("nan"))
        cells = _search(field, diameter, ROUGH_DIAMETER)
        diameter, before = _median_diameter(cells), diameter
        if abs(diameter / before - 1) < STEADY:
            break
    return _in_reading_order(cells, diameter)


def _in_reading_order(cells: list[Cell], diameter: float) -> Cells:
    in_order = sorted(cells, key=lambda cell: (cell.box[1], cell.box[0]))
    return Cells(tuple(in_order), diameter)


def _guess_diameter(field: Field) -> float:
    """Guess a cell's diameter in pixels by how deep stained regions are; NaN without any."""
    for side in ROUGH_SIDES:
        scale = min(1.0, side / max(field.shape[:2]))
        mask = stained(_over_channels(absorbance(scaled(field, scale))))
        mask = ndimage.binary_fill_holes(mask)
        if mask.all() or not mask.any():
            return float("nan")
        depth = _depth(mask)
        deepest = np.sort(depth[mask & (depth == cv2.dilate(depth, np.ones((5, 5))))])
        # By area: specks are many, cells are large.
        typical = _weighted_median(deepest, deepest**2)
        if typical >= LEAST_DEPTH or scale == 1:
            break
    return float(2 * typical / scale)


def _depth(mask: Mask) -> Amount:
    """Measure how far each pixel of a mask is from its nearest pixel outside, in pixels."""
    return np.asarray(
        cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32
    )


def _median_diameter(cells: list[Cell]) -> float:
    """Measure the median red cell's diameter in pixels, uncut and clear outlines first."""
    red = [cell for cell in cells if cell.kind == "red"]
    chosen = [cell for cell in red if not cell.touches_border] or red or cells
    if not chosen:
        return float("nan")
    areas = enclosed_area(np.array([cell.outline for cell in chosen]))
    order = np.argsort(areas)
    weights = areas * np.array([cell.edge for cell in chosen])
    return 2 * float(np.sqrt(_weighted_median(areas[order], weights[order]) / np.pi))


def _weighted_median(values: Float, weights: Float) -> float:
    """Compute the weighted median of sorted values (n,)."""
    total = np.cumsum(weights)
    return float(values[np.searchsorted(total, total[-1] / 2)])


def _search(field: Field, diameter: float, working: int) -> list[Cell]:
    """Find cells of a field whose median cell has about this diameter in pixels, clearest first.

    They are searched where the median cell is ``working`` pixels wide.
    """
    scale = working / diameter
    width, height = size_at(field.shape, scale)
    if width * height > MOST_SEARCHED or max(width, height) > LONGEST_SEARCHED:
        raise BadImageError(
            "too_large",
            f"cells of {diameter:.0f} pixels are searched in {width} x {height} pixels, and more "
            f"than {MOST_SEARCHED:,}, or {LONGEST_SEARCHED:,} in a row, are too many: cut the "
            "photograph into several",
        )
    colour = absorbance(scaled(field, scale))
    amount = _over_channels(colour)
    mask = stained(amount)
    if not mask.any():
        return []
    white = _white_outlines(colour, amount, mask, working)
    red = _red_outlines(amount, mask, working)
    found: list[tuple[Outline, Kind]] = [(one, "white") for one in white]
    found += [(one, "red") for one in red]
    step = max(1, working // ROUGH_DIAMETER)
    return [
        _cell(points, clearness, kind, scale, field.shape)
        for (points, clearness), kind in _uncovered(found, mask[::step, ::step], step)
    ]


def _uncovered(
    found: list[tuple[Outline, Kind]], mask: Mask, step: int
) -> list[tuple[Outline, Kind]]:
    """Choose outlines that hold stain and that those before them do not cover.

    Args:
        found: outlines, the most probable first.
        mask: which pixels hold stain, of every ``step``th row and column.
        step: pixels of an outline's unit to each of the mask.
    """
    chosen, covered = list[tuple[Outline, Kind]](), np.zeros(mask.shape, np.uint8)
    for outline, kind in found:
        points, clearness = outline
        within = _samples(points / step, mask.shape)
        is_new = within[0].size > 0 and covered[within].mean() <= clearness - LEAST_EDGE_COVERED
        if is_new and mask[within].mean() >= LEAST_STAINED:
            covered[polygon(points[:, 1] / step, points[:, 0] / step, mask.shape)] = 1
            chosen.append((outline, kind))
    return chosen


def _samples(points: Float, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Choose rows and columns of pixels in an outline and the field, about evenly by area."""
    middle = points.mean(axis=0)
    x, y = np.rint(middle + SAMPLED * (points - middle)).astype(np.intp).reshape(-1, 2).T
    known = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    return y[known], x[known]


def _red_outlines(amount: Amount, mask: Mask, working: int) -> list[Outline]:
    """Find candidates for red cells, maybe several of one cell, the most probable first."""
    edge = edges(np.minimum(amount, DARKEST * np.median(amount[mask])), mask, working)
    step = max(1, working // ROUGH_DIAMETER)
    rings = step * seeds(
        edge[::step, ::step],
        RADII * working / step,
        least=LEAST_RING,
        apart=CLOSEST * working / step,
        most=_most_rings(amount.shape, working),
    )
    first, along = trace(edge, rings, ANGLES // 2)
    # A ring finds a long cell at one of its ends; from the outline's middle it sees the other.
    again = _distinct(first, along, working)
    points, along = trace(edge, again)
    clearness, seen = _clearness(along)
    sizes = _widths(points) / working
    good = (sizes >= LEAST_SIZE) & (clearness >= LEAST_EDGE) & (seen >= LEAST_SEEN)
    rank = clearness - SIZE_PRIOR * np.log(sizes / PREFERRED_SIZE) ** 2 - CUT_PRIOR * (1 - seen)
    return [(points[i], float(clearness[i])) for i in np.argsort(-rank, kind="stable") if good[i]]


def _most_rings(shape: tuple[int, ...], working: int) -> int:
    """Limit the rings of a field by how many cells fit into it, cut ones at its border included."""
    fit = (shape[0] + working) * (shape[1] + working) / _area(1, working)
    return ceil(RINGS_A_CELL * fit)


def _distinct(outlines: Float, along: Float, working: int) -> Float:
    """List middles x, y and radii (n, 3) of outlines that differ and may become clear.

    Of those alike, the clearest is kept.

    Args:
        outlines: of `trace`.
        along: the edges along them.
        working: diameter of the median cell in pixels.
    """
    clearness, _ = _clearness(along)
    order = np.argsort(-clearness, kind="stable")
    order = order[clearness[order] > HOPELESS]
    places = np.column_stack([outlines.mean(axis=1), _widths(outlines) / 2])[order]
    kept = np.ones(len(places), bool)
    # Not each against each: of tissue at a low magnification a field has tens of thousands.
    tree = KDTree(places[:, :2])
    for i in range(len(places)):
        if kept[i]:
            near = np.asarray(tree.query_ball_point(places[i, :2], 1.01 * ALIKE * working), int)
            near = near[near > i]
            away = places[near] - places[i]
            alike = np.hypot(away[:, 0], away[:, 1]) < ALIKE * working
            alike &= np.abs(away[:, 2]) < ALIKE / 2 * working
            kept[near[alike]] = False
    return places[kept]


def _clearness(along: Float) -> tuple[Float, Float]:
    """Average the edge over the seen part of outlines, and measure the share seen, (n,) each."""
    seen = ~np.isnan(along)
    clear = np.nansum(np.minimum(along, CLEAR), axis=1) / CLEAR
    return clear / np.maximum(seen.sum(axis=1), 1), seen.mean(axis=1)


def _widths(outlines: Float) -> Float:
    """Compute diameters of circles with the areas of outlines, (n,)."""
    return np.asarray(2 * np.sqrt(enclosed_area(outlines) / np.pi))


def _over_channels(colour: Amount) -> Amount:
    """Combine the absorbance over all channels, (h, w)."""
    return np.asarray(np.sqrt(np.einsum("...c,...c", colour, colour)))


def _white_outlines(colour: Amount, amount: Amount, mask: Mask, working: int) -> list[Outline]:
    """Find white cells: large nuclei of another colour than red cells, with their cytoplasm.

    Cytoplasm has some of the nucleus' colour, and is near it. The cell is the convex hull of both.
    """
    typical = float(np.median(amount[mask]))
    eosin = np.median(colour[mask & (amount < 1.5 * typical)], axis=0)
    eosin /= np.linalg.norm(eosin)
    azure = _over_channels(colour - (colour @ eosin)[..., np.newaxis] * eosin)
    azure = ndimage.gaussian_filter(azure, SMOOTHING * working)
    unit = max(typical, PALEST)
    nuclei = azure > NUCLEUS * unit
    together = ndimage.binary_dilation(nuclei, iterations=round(LOBES_APART * working))
    groups, _ = ndimage.label(together)
    depth = CYTOPLASM_DEPTH * working
    found = []
    for i, place in enumerate(ndimage.find_objects(groups), start=1):
        if np.count_nonzero(nuclei[place] & (groups[place] == i)) < _area(LEAST_NUCLEUS, working):
            continue
        window = tuple(
            slice(max(part.start - ceil(depth), 0), part.stop + ceil(depth)) for part in place
        )
        nucleus = nuclei[window] & (groups[window] == i)
        near = _depth(~nucleus) <= depth
        coloured = azure[window] > np.maximum(CYTOPLASM * unit, COLOURED * amount[window])
        body = ndimage.binary_opening(
            near & coloured, iterations=max(1, round(BRIDGE / 2 * working))
        )
        parts, _ = ndimage.label(body | nucleus)
        pixels = np.argwhere(np.isin(parts, np.unique(parts[nucleus])))[:, ::-1]
        # Their corners, so that a streak has a hull as well.
        hull = ConvexHull(np.concatenate([pixels + corner for corner in CORNERS]))
        corners = hull.points[hull.vertices] + [window[1].start, window[0].start]
        found.append((_resampled(corners), 1.0))
    return found


def _area(share: float, diameter: int) -> float:
    """Compute a share of the area of a circle of a diameter."""
    return share * np.pi / 4 * diameter**2


def _resampled(corners: Float) -> Float:
    """Resample a convex outline (n, 2) to `ANGLES` points at equal distances along it."""
    ring = np.concatenate([corners, corners[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(ring, axis=0), axis=1))])
    at = np.linspace(0, along[-1], ANGLES, endpoint=False)
    return np.stack([np.interp(at, along, ring[:, k]) for k in (0, 1)], axis=1)


def _cell(
    points: Float, clearness: float, kind: Kind, scale: float, shape: tuple[int, ...]
) -> Cell:
    """Make a cell in pixels of its field from an outline at another scale."""
    outline = rescaled(points, 1 / scale)
    size = np.array(shape[1::-1])
    box = box_around(outline, (shape[1], shape[0]))
    # What lies outside is pressed flat against the border.
    area = float(enclosed_area(np.clip(outline, -0.5, size - 0.5)))
    touches = box[0] <= 0 or box[1] <= 0 or box[0] + box[2] >= size[0] or box[1] + box[3] >= size[1]
    return Cell(box, outline, area, clearness, bool(touches), kind)
