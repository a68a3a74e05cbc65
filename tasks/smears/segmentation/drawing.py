"""Draw the outlines of cells with the rim around training cells, apart from their neighbours."""

from collections.abc import Sequence

import cv2
import numpy as np

from tasks.smears.segmentation.contours import joined
from tasks.types import Float, Mask, Numbers, Single

MARGIN = 2  # pixels of a cut-out cell: the rim around training cells
LEAST_REACH = 0.3  # of a ray of an outline; a smaller reach means another cell
# Share of a cell that a neighbour may cover. With half as much, 7 to 10% fewer cells of two
# laboratories are counted, and as many of their healthy cells are abnormal.
LARGEST_BITE = 0.1
SHARES = np.linspace(LEAST_REACH, 1, 64)  # of a ray that are tried
AT_ONCE = 64  # cells that are drawn together; a pair of cells takes 40 kB


def with_rims(outlines: Sequence[Numbers], scale: float) -> list[Single]:
    """Move outlines (n, 2) in a field outwards by the rim around training cells.

    ``scale`` are pixels of a cut-out cell for each of the field.
    """
    points, starts, lengths = joined(outlines)
    middles = np.add.reduceat(points, starts) / lengths[:, np.newaxis]
    away = points - np.repeat(middles, lengths, axis=0)
    length = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    moved = np.asarray(points + away / length * (MARGIN / scale), np.float32)
    return np.split(moved, starts[1:]) if len(starts) else []


def apart(outlines: Sequence[Numbers], rims: Sequence[Single], scale: float) -> list[Single]:
    """Draw outlines with their rims (n, 2) in where they overlap another cell.

    Where two cells overlap it is twice as dark, and looks like a parasite. Each point is moved
    along its ray from the middle, to the rim's width before the other cell begins. ``rims`` are the
    outlines of all cells `with_rims`.
    """
    around, own = _alike_long(outlines), _alike_long(rims)
    low, high = around.min(axis=1), around.max(axis=1)
    drawings = list[Single]()
    for start in range(0, len(rims), AT_ONCE):
        some = own[start : start + AT_ONCE]
        middles = np.array([rim.mean(axis=0) for rim in rims[start : start + AT_ONCE]])
        rays = some - middles[:, np.newaxis]
        meets = (low < some.max(axis=1, keepdims=True)) & (high > some.min(axis=1, keepdims=True))
        pairs = meets.all(axis=2)
        pairs[np.arange(len(some)), start + np.arange(len(some))] = False
        cell, other = np.nonzero(pairs)
        reach = np.ones(rays.shape[:2])
        np.minimum.at(reach, cell, _entry(rays[cell], around[other] - middles[cell, np.newaxis]))
        length = np.linalg.norm(rays, axis=2)
        drawn_in = np.maximum(reach - MARGIN / scale / np.maximum(length, 1e-6), LEAST_REACH)
        share = np.where(reach < 1, drawn_in, 1.0)
        drawn = np.asarray(middles[:, np.newaxis] + rays * share[..., np.newaxis], np.float32)
        drawings += [each[: len(rim)] for each, rim in zip(drawn, rims[start:], strict=False)]
    return drawings


def _alike_long(outlines: Sequence[Numbers]) -> Numbers:
    """Stack outlines (n, 2), repeating the last point of those that have fewer points."""
    points, starts, lengths = joined(outlines)
    each = np.minimum(np.arange(lengths.max(initial=1)), lengths[:, np.newaxis] - 1)
    return points[starts[:, np.newaxis] + each]


def are_bitten(rims: Sequence[Single], contours: Sequence[Single]) -> Mask:
    """Mark the cells (n,) that lose too much to a neighbour for their shape to be judged.

    ``contours`` are their ``rims``, (points, 2) each, drawn in by `apart`.
    """
    whole, left = (
        np.array([cv2.contourArea(outline) for outline in outlines])
        for outlines in (rims, contours)
    )
    return np.asarray(left < (1 - LARGEST_BITE) * whole)


def _entry(rays: Numbers, outlines: Numbers) -> Float:
    """Find the share of rays (n, rays, 2) at which an outline (n, points, 2) begins; 1: nowhere.

    Rays begin at 0.
    """
    x, y = np.moveaxis(outlines, 2, 0)
    # A line from point to point meets a ray if its ends lie on both sides of it.
    side = rays[..., :1] * y[:, np.newaxis] - rays[..., 1:] * x[:, np.newaxis]
    left, side = side > 0, side.reshape(-1, x.shape[1])
    ray, line = np.divmod(np.flatnonzero(left != np.roll(left, -1, axis=2)), x.shape[1])
    after = (line + 1) % x.shape[1]
    area = (x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1))[ray // rays.shape[1], line]
    met = np.searchsorted(SHARES, area / (side[ray, after] - side[ray, line]))
    # A ray is inside where the rest of it meets the outline an odd number of times.
    tried = len(SHARES) + 1
    places, times = np.unique(ray * tried + met, return_counts=True)
    places = places[(times % 2 > 0) & (places % tried > 0)]
    of, first, times = np.unique(places // tried, return_index=True, return_counts=True)
    reach = np.ones(rays.shape[:2])
    begins = np.where(times % 2 > 0, 0, places[first] % tried)
    reach.flat[of] = np.append(SHARES, 1.0)[begins]
    return reach
