"""Find the cells of a field of view: an outline, a box and a kind for each.

Everything is measured in diameters of the field's own median cell and in absorbances of its own
background and cells, so that magnification, exposure and stain do not matter. A field is RGB uint8
(h, w, 3).
"""

from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import cv2
import numpy as np
from scipy.spatial import KDTree
from skimage.measure import points_in_poly

from tasks.images import decoding
from tasks.images.geometry import Box, box_around, rescaled, scaled, size_at
from tasks.smears.segmentation import contours
from tasks.smears.segmentation.absorbance import (
    absorbance,
    inside,
    over_channels,
    rim,
    stained,
    white_outlines,
    without_bars,
)
from tasks.smears.segmentation.guessing import guess_diameter, weighted_median
from tasks.types import Float, Index, Mask, Pixels, Single

Kind = Literal["red", "white"]

# Lengths are in diameters of the median cell, areas in those of a circle of this diameter.
WORKING_DIAMETER = 48  # pixels of the median cell during the search; larger ones find no more
ROUGH_DIAMETER = 24  # the same to find the diameter only, and for rings
LEAST_DIAMETER = 8  # pixels; a smaller cell cannot be diagnosed
MOST_ACROSS = 20  # diameters of the part of a field where it is sought; a larger one errs as often
ROUNDS = 4  # of searching, each with the diameter from the last
STEADY = 0.1  # smaller relative changes of the diameter end the rounds
# Of 60 photographs of five laboratories five were cut as clumps, with mean edges of 0.83 to 0.91;
# other diameters are tried below this one, which a quarter of the others have.
UNDOUBTED = 0.93
OTHER_DIAMETERS = 0.5, 0.7  # as shares of the first one: clumps look like cells, not the reverse
COARSE_DIAMETER = 12  # pixels of the median cell when outlines are compared with the stain
CLEARNESS = 3  # power of the mean edge: the least that corrects four of the five
RADII = np.array([0.38, 0.45, 0.53, 0.62])  # of the rings; an outline may be half as wide again
LEAST_RING = 0.1  # mean edge, 0 to 1, over a ring; rings see little of a long or pale cell
CLOSEST = 0.25  # of two rings of one radius
# Fields packed with cells, and tissue, have up to 10 for each cell that fits in.
RINGS_A_CELL = 20
MOST_SEARCHED = 24_000_000  # pixels of a searched field; each takes 100 bytes
LONGEST_SEARCHED = 32_000  # pixels of its longer side; the limit of OpenCV
ALIKE = 0.12  # distance of two outlines' middles, in diameters
SAMPLED = np.sqrt((np.arange(6, dtype=np.float32) + 0.5) / 6)[:, np.newaxis]  # of a radius, by area
CLEAR = 0.7  # edge that counts as complete: pale cells have outlines too
LEAST_EDGE = 0.7  # mean over an outline, as a share of a clear one
HOPELESS = 0.5  # the same for a coarse first outline that is not worth a second
LEAST_SEEN = 0.5  # share of an outline within the field
LEAST_STAINED = 0.25  # share of a cell; pallor is as bright as the background
LEAST_SIZE = 0.6  # of a cell, in diameters; platelets and overlaps of cells are smaller
# Clearer outlines may cover the share of a cell by which its edge exceeds this: a pale cell is
# certain if it is alone, in a heap only a clear one.
LEAST_EDGE_COVERED = 0.45
WITHIN, MOST_WITHIN = 0.85, 0.75  # share of an outline in a larger one, and of their areas
PREFERRED_SIZE = 1.1  # in diameters; the smaller of two outlines is more often a part of the cell
SIZE_PRIOR = 0.7  # edge that a cell e times as wide as `PREFERRED_SIZE` loses
CUT_PRIOR = 0.35  # edge that a completely invisible cell would lose
DARKEST = 1.75  # absorbances of a red cell; more would make a nucleus the only clear edge


@dataclass(frozen=True)
class Cell:
    """A cell in a field of view.

    ``box`` is x, y, width and height in pixels of the field; ``outline`` (angles, 2) is x and y,
    possibly outside the field; ``area`` is the area within the field in square pixels; ``edge``,
    0 to 1, is the clearness of the outline, 1 for a white cell, which is found by its nucleus.
    ``kind`` is a hint from the nucleus, not a diagnosis.
    """

    box: Box
    outline: Float
    area: float
    edge: float
    touches_border: bool
    kind: Kind


@dataclass(frozen=True)
class Cells:
    """A field's cells in reading order, with the median red cell's diameter in pixels or NaN.

    Outlines of overlapping cells overlap.
    """

    cells: tuple[Cell, ...]
    diameter: float


def find_cells(field: Pixels, diameter: float | None = None, *, dark: bool = True) -> Cells:
    """Find the cells of a field of view; a field of only noise or of one colour has none.

    Giving the diameter of a typical red cell in pixels, if the magnification is known, halves the
    time, and is more certain than one field's median. Without ``dark`` a white cell whose nucleus
    has nearly the red cells' colour is taken for red ones.

    Raises:
        ValueError: the field is not RGB, or the diameter is below `LEAST_DIAMETER`.
    """
    if field.ndim != 3 or field.shape[2] != 3 or field.dtype != np.uint8:
        raise ValueError(f"a field is RGB uint8 (h, w, 3), not {field.dtype} {field.shape}")
    if diameter is None:
        diameter = find_roughly(field).diameter
        if not diameter >= LEAST_DIAMETER:
            return Cells((), float("nan"))
    elif not LEAST_DIAMETER <= diameter < np.inf:
        raise ValueError(
            f"a diameter is that of a typical red cell in pixels, at least {LEAST_DIAMETER}, not "
            f"{diameter}: enlarge the field, or leave the diameter out to have it measured"
        )
    cells = _search(field, rim(field), diameter, WORKING_DIAMETER, dark=dark)
    return _in_reading_order(cells, _median_diameter(cells))


def find_roughly(field: Pixels) -> Cells:
    """Find most cells of a field, or of the middle of a very large one, faster than `find_cells`.

    The diameter of the median cell is right to some percent; NaN without cells.
    """
    around = rim(field)
    guess = guess_diameter(field, around)
    if not guess >= LEAST_DIAMETER:
        return Cells((), float("nan"))
    # Tissue has a hundred thousand of what may be a cell, and each is traced a dozen times.
    height, width = field.shape[:2]
    x, y = (max(0, int(side - MOST_ACROSS * guess) // 2) for side in (width, height))
    field = field[y : height - y, x : width - x]
    around = None if around is None else around - (x, y)
    cells, diameter = _settled(field, around, guess)
    if cells and np.mean([cell.edge for cell in cells]) < UNDOUBTED:
        tried = [_settled(field, around, share * diameter, rounds=1) for share in OTHER_DIAMETERS]
        tried.insert(0, (cells, diameter))
        best = int(np.argmax([_explained(field, around, *each) for each in tried]))
        cells, diameter = _settled(field, around, tried[best][1]) if best else tried[0]
    moved = []
    for cell in cells:
        left, top, *size = cell.box
        box = (left + x, top + y, size[0], size[1])
        moved.append(replace(cell, box=box, outline=np.add(cell.outline, (x, y))))
    return _in_reading_order(moved, diameter)


def _settled(
    field: Pixels, around: Float | None, diameter: float, rounds: int = ROUNDS
) -> tuple[list[Cell], float]:
    """Search with a diameter in pixels, then with the median of the cells found until it is steady.

    Return the cells with their median diameter; none and NaN if that is too small.
    """
    cells = list[Cell]()
    for _ in range(rounds):
        if not diameter >= LEAST_DIAMETER:
            return [], float("nan")
        cells = _search(field, around, diameter, ROUGH_DIAMETER)
        diameter, before = _median_diameter(cells), diameter
        if abs(diameter / before - 1) < STEADY:
            break
    return cells, diameter


def _explained(field: Pixels, around: Float | None, cells: list[Cell], diameter: float) -> float:
    """Measure how well cells explain a field, 0 to 1: agreement with the stain, times clearness."""
    if not cells:
        return 0.0
    scale = COARSE_DIAMETER / diameter
    small = scaled(field, scale)
    mask = stained(over_channels(absorbance(small, inside(around, small.shape, scale))))
    outlines = [rescaled(cell.outline, scale) for cell in cells]
    covered = contours.layers(outlines, (mask.shape[0], mask.shape[1])) > 0
    agreement = (covered & mask).sum() / max(1, int((covered | mask).sum()))
    return float(agreement * np.mean([cell.edge for cell in cells]) ** CLEARNESS)


def _in_reading_order(cells: list[Cell], diameter: float) -> Cells:
    in_order = sorted(cells, key=lambda cell: (cell.box[1], cell.box[0]))
    return Cells(tuple(in_order), diameter)


def _median_diameter(cells: list[Cell]) -> float:
    """Measure the median red cell's diameter in pixels, preferring uncut and clear outlines."""
    red = [cell for cell in cells if cell.kind == "red"]
    chosen = [cell for cell in red if not cell.touches_border] or red or cells
    if not chosen:
        return float("nan")
    areas = contours.enclosed_area(np.array([cell.outline for cell in chosen]))
    order = np.argsort(areas)
    weights = areas * np.array([cell.edge for cell in chosen])
    return 2 * float(np.sqrt(weighted_median(areas[order], weights[order]) / np.pi))


def _search(
    field: Pixels, around: Float | None, diameter: float, working: int, *, dark: bool = True
) -> list[Cell]:
    """Find cells of a field whose median cell has about this diameter in pixels, clearest first.

    ``around`` is the field's `rim`. The search scales the median cell to ``working`` pixels.
    """
    scale = working / diameter
    width, height = size_at(field.shape, scale)
    if width * height > MOST_SEARCHED or max(width, height) > LONGEST_SEARCHED:
        raise decoding.BadImageError(
            "too_large",
            f"cells of {diameter:.0f} pixels are searched in {width} x {height} pixels, and more "
            f"than {MOST_SEARCHED:,}, or {LONGEST_SEARCHED:,} in a row, are too many: cut the "
            "photograph into several",
        )
    small = scaled(field, scale)
    lit = without_bars(small, inside(around, small.shape, scale), working)
    colour = absorbance(small, lit)
    amount = over_channels(colour)
    mask = stained(amount)
    if not mask.any():
        return []
    typical = contours.median(amount[mask])
    white, written = white_outlines(colour, amount, mask, typical, working, dark=dark)
    lit, mask = lit & ~written, mask & ~written
    blurred = ceil(3 * contours.SMOOTHING * working)
    # Next to a dark rim or a drawing, smoothing makes edges that no cell has.
    lit = cv2.erode(lit.view(np.uint8), np.ones((2 * blurred + 1,) * 2, np.uint8)) > 0
    red = _red_outlines(np.minimum(amount, DARKEST * typical), mask, lit, working)
    candidates: list[tuple[contours.Outline, Kind]] = [(one, "white") for one in white]
    candidates += [(one, "red") for one in red]
    step = max(1, working // ROUGH_DIAMETER)
    chosen = _outermost(_uncovered(candidates, mask[::step, ::step], step))
    return _cells(chosen, scale, lit, field.shape)


def _uncovered(
    candidates: list[tuple[contours.Outline, Kind]], mask: Mask, step: int
) -> list[tuple[contours.Outline, Kind]]:
    """Choose outlines, the most probable first, with stain and not covered by earlier ones.

    The mask has the stained pixels in every ``step``th row and column.
    """
    chosen = []
    covered, stain = np.zeros(mask.size + 1, bool), np.append(mask, False)  # the last lies outside
    for start in range(0, len(candidates), contours.AT_ONCE):
        some = candidates[start : start + contours.AT_ONCE]
        outlines = np.array([points for (points, _), _ in some]) / step
        within, seen = _samples(outlines, mask.shape)
        most_hidden = (np.array([edge for (_, edge), _ in some]) - LEAST_EDGE_COVERED) * seen
        holds_stain = np.flatnonzero(stain[within].sum(axis=1) >= (LEAST_STAINED * seen).clip(1))
        of, begins, ends = contours.runs([*outlines[holds_stain]], mask.shape)
        lengths = ends - begins
        pixels = np.arange(lengths.sum()) + np.repeat(ends - np.cumsum(lengths), lengths)
        begins = np.searchsorted(np.repeat(of, lengths), np.arange(1, len(holds_stain)))
        for i, inside_it in zip(holds_stain.tolist(), np.split(pixels, begins), strict=False):
            if np.count_nonzero(covered[within[i]]) <= most_hidden[i]:
                covered[inside_it] = True
                chosen.append(some[i])
    return chosen


def _outermost(chosen: list[tuple[contours.Outline, Kind]]) -> list[tuple[contours.Outline, Kind]]:
    """Leave out outlines within a larger one: a parasite in a pale cell, the overlap of two."""
    outlines = np.array([points for (points, _), _ in chosen]).reshape(-1, contours.ANGLES, 2)
    middles, areas = outlines.mean(axis=1), contours.enclosed_area(outlines)
    low, high = outlines.min(axis=1).T.copy(), outlines.max(axis=1).T.copy()
    kept = []
    for one, outline, (x, y), area in zip(chosen, outlines, middles, areas, strict=True):
        around = (low[0] < x) & (x < high[0]) & (low[1] < y) & (y < high[1])
        larger = np.flatnonzero(around & (areas * MOST_WITHIN > area)).tolist()
        points = [share * outline + (1 - share) * (x, y) for share in SAMPLED if larger]
        held = (points_in_poly(np.concatenate(points), outlines[j]) for j in larger)
        if all(each.mean() < WITHIN for each in held):
            kept.append(one)
    return kept


def _samples(outlines: Float, shape: tuple[int, ...]) -> tuple[Index, Index]:
    """Choose pixels in outlines (n, angles, 2), about evenly by area.

    Return their places in the flattened field (n, pixels), or its size where they lie outside it,
    and how many lie within, (n,).
    """
    places = np.moveaxis(outlines, 2, 0).astype(np.float32, order="C")[:, :, np.newaxis]
    middle = places.mean(axis=3, keepdims=True)
    x, y = np.rint(middle + SAMPLED * (places - middle)).astype(int).reshape(2, len(outlines), -1)
    known = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    return np.where(known, y * shape[1] + x, shape[0] * shape[1]), known.sum(axis=1)


def _red_outlines(amount: Single, mask: Mask, lit: Mask, working: int) -> list[contours.Outline]:
    """Find candidates for red cells, possibly several per cell, the most probable first."""
    edge = contours.edges(amount, mask, working, lit)
    step = max(1, working // ROUGH_DIAMETER)
    across, down = (side + working for side in amount.shape)
    fit = across * down / (np.pi / 4 * working**2)  # cells, including cut ones
    rings = step * contours.seeds(
        edge[:, ::step, ::step],
        RADII * working / step,
        least=LEAST_RING,
        apart=CLOSEST * working / step,
        most=ceil(RINGS_A_CELL * fit),
    )
    first, along = contours.trace(edge, rings, lit, coarse=True)
    # A ring finds a long cell at one end; starting from the outline's middle finds the other.
    again = _distinct(first, along, working)
    points, along = contours.trace(edge, again, lit)
    clearness, seen = _clearness(along)
    sizes = _widths(points) / working
    good = (sizes >= LEAST_SIZE) & (clearness >= LEAST_EDGE) & (seen >= LEAST_SEEN)
    rank = clearness - SIZE_PRIOR * np.log(sizes / PREFERRED_SIZE) ** 2 - CUT_PRIOR * (1 - seen)
    return [(points[i], float(clearness[i])) for i in np.argsort(-rank, kind="stable") if good[i]]


def _distinct(outlines: Float, along: Float, working: int) -> Float:
    """List middles x, y and radii (n, 3) of different outlines that may become clear.

    Of similar ones the clearest is kept; ``along`` are the edges along them, from `trace`.
    """
    clearness, _ = _clearness(along)
    order = np.argsort(-clearness, kind="stable")
    order = order[clearness[order] > HOPELESS]
    places = np.column_stack([outlines.mean(axis=1), _widths(outlines) / 2])[order]
    # Not every pair: a field of tissue at low magnification has tens of thousands.
    pairs = KDTree(places[:, :2]).query_pairs(1.01 * ALIKE * working, output_type="ndarray")
    away = np.abs(places[pairs[:, 0]] - places[pairs[:, 1]])
    alike = np.hypot(away[:, 0], away[:, 1]) < ALIKE * working
    alike &= away[:, 2] < ALIKE / 2 * working
    pairs = pairs[alike]
    kept = np.ones(len(places), bool)
    for clearer, other in pairs[np.argsort(pairs[:, 0])].tolist():
        if kept[clearer]:
            kept[other] = False
    return places[kept]


def _clearness(along: Float) -> tuple[Float, Float]:
    """Average the edge over the visible part of outlines, and compute its share, (n,) each."""
    seen = ~np.isnan(along)
    clear = np.nansum(np.minimum(along, CLEAR), axis=1) / CLEAR
    return clear / np.maximum(seen.sum(axis=1), 1), seen.mean(axis=1)


def _widths(outlines: Float) -> Float:
    """Compute diameters of circles with the areas of outlines, (n,)."""
    return np.asarray(2 * np.sqrt(contours.enclosed_area(outlines) / np.pi))


def _cells(
    chosen: list[tuple[contours.Outline, Kind]], scale: float, lit: Mask, shape: tuple[int, ...]
) -> list[Cell]:
    width, height = size = (shape[1], shape[0])
    points = np.array([points for (points, _), _ in chosen]).reshape(-1, contours.ANGLES, 2)
    outlines = rescaled(points, 1 / scale)
    # Parts outside are projected onto the border.
    areas = contours.enclosed_area(np.clip(outlines, -0.5, np.array(size) - 0.5)).tolist()
    dark = ~np.all(contours.within(lit, points), axis=1)
    cells = []
    for outline, area, beyond, ((_, clearness), kind) in zip(
        outlines, areas, dark.tolist(), chosen, strict=True
    ):
        x, y, wide, tall = box = box_around(outline, size)
        touches = beyond or x <= 0 or y <= 0 or x + wide >= width or y + tall >= height
        cells.append(Cell(box, outline, area, clearness, touches, kind))
    return cells
