"""Trace closed outlines of round things darker than their surroundings, even if they overlap.

An edge is a vector that points from dark to bright, 0 to 1 long. A centre is a point around which
the edges of a whole ring point outwards (a Hough transform by direction). Around it, an outline is
the closed path of radii with the strongest outward edges, found by dynamic programming. A cell on
top of another one has edges on all sides, because absorbances add up, so the overlap belongs to
both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from tasks.types import Float, Index, Mask, Numbers, Single

Edges = Single  # their parts to the right and down, (2, h, w)
Spectrum = NDArray[np.complex64]
Outline = tuple[Float, float]  # its points (angles, 2), and the edge averaged over those seen

ANGLES = 48
REACH = np.linspace(0.45, 1.6, 18)  # radii of an outline to try, in radii of its seed
RING_WIDTH = 0.13  # of a ring's radius; cells are not circles
SOFTNESS = 0.12  # of a typical edge, at which an edge counts as a half: pale cells have edges too
SMOOTHING = 0.03  # of a diameter; less than the rim of a cell, more than the camera's noise
STIFFNESS = np.float32(0.16)  # cost of a step from one radius to the next, in edges
AT_ONCE = 512  # seeds traced together; each takes 50 kB
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))  # a pixel and its four neighbours
FINE = np.float32(32)  # parts of a pixel in which edges are interpolated
SEEN = 0.5  # of a ring; if less of a cell is visible, its centre is a guess


def edges(amount: Single, mask: Mask, diameter: float, lit: Mask | None = None) -> Edges:
    """Compute edges of absorbance (h, w), relative to the typical edge of stained pixels.

    The diameter is that of a typical cell in pixels. There are none where ``lit`` (h, w) is not
    set.
    """
    smooth, slope = (gaussian(SMOOTHING * diameter, order) for order in (0, 1))
    outward = np.array([filtered(amount, slope, smooth), filtered(amount, smooth, slope)])
    strength = np.sqrt(np.square(outward[0]) + np.square(outward[1]))  # OpenCV's varies by memory
    inner = cv2.erode(mask.view(np.uint8), CROSS)  # the mask continues beyond the field
    rim = mask & (inner == 0)
    typical = median(strength[rim]) if rim.any() else 1.0
    strength += np.float32(SOFTNESS * typical)
    outward /= np.negative(strength, out=strength)
    if lit is not None and not lit.all():
        outward[:, ~lit] = 0
    return outward


def median(values: Numbers) -> float:
    """Compute the median of values (n,) without NaN, in a tenth of the time of NumPy's."""
    half = len(values) // 2
    parted = np.partition(values, half)
    return float(parted[half] if len(values) % 2 else (parted[:half].max() + parted[half]) / 2)


def depths(mask: Mask) -> Single:
    """Measure how far each pixel of a mask is from its nearest pixel outside, in pixels."""
    depth = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squares are whole numbers; OpenCV's last digits depend on its threads and on memory.
    return np.asarray(np.sqrt(np.rint(depth * depth)), np.float32)


def gaussian(sigma: float, order: int = 0) -> Single:
    """Compute a filter (n,): a Gaussian of that width in pixels, its slope or its second slope."""
    reach = int(4 * sigma + 0.5)
    x = np.arange(-reach, reach + 1) / sigma
    smooth = np.exp(-x * x / 2)
    factor = (1, x / sigma, (x * x - 1) / sigma**2)[order]
    return np.asarray(factor * smooth / smooth.sum(), np.float32)


def filtered(amount: Single, across: Single, down: Single) -> Single:
    """Filter an amount (h, w) along its rows and along its columns, mirrored at its border."""
    return np.asarray(
        cv2.sepFilter2D(amount, cv2.CV_32F, across, down, borderType=cv2.BORDER_REFLECT)
    )


def seeds(edge: Edges, radii: Float, *, least: float, apart: float, most: int) -> Float:
    """Find centres of rings: x, y and radius in pixels, (n, 3), possibly outside the field.

    A share of more than ``least`` of a ring must point outwards; two centres are ``apart`` pixels
    from each other at least; at most ``most`` are returned, the best.
    """
    margin = int(radii.max() * 0.5)
    field = edge.shape[1:]
    height, width = (n + 2 * margin for n in field)
    farthest = int(1.5 * radii.max())  # from its middle, of a ring that meets the field
    shape = tuple(
        fft.next_fast_len(max(n + margin, farthest + 1) + farthest, real=True) for n in field
    )
    right, down = (fft.rfft2(np.pad(part, margin), shape) for part in edge)
    near = np.ones((2 * int(apart / 2) + 1,) * 2, np.uint8)
    centres, shares = [], []
    for r in radii.tolist():
        ring = _sought(r, field, margin, shape)
        towards = right * ring.right
        towards += down * ring.down
        share = fft.irfft2(towards, shape)[:height, :width]
        share /= ring.seen
        best = np.flatnonzero((share == cv2.dilate(share, near)) & (share > least))
        y, x = np.divmod(best, width)  # in a fifth of the time of `np.nonzero`
        centres.append(np.stack([x - margin, y - margin, np.full(len(x), r)], axis=1))
        shares.append(share[y, x])
    chosen = np.argsort(-np.concatenate(shares), kind="stable")[:most]
    return np.concatenate(centres)[np.sort(chosen)].astype(np.float64)


@dataclass(frozen=True)
class _Sought:
    """A ring to be found in fields of one size.

    ``right`` and ``down`` are the spectra of its parts, turned by half a turn for a correlation;
    ``seen`` is the share of a ring around each place that lies in the field, at least `SEEN`.
    """

    right: Spectrum
    down: Spectrum
    seen: Single


# Photographs of a night have one size and one magnification, so all have the same rings.
@lru_cache(maxsize=8)
def _sought(radius: float, field: tuple[int, int], margin: int, shape: tuple[int, int]) -> _Sought:
    """Prepare a ring for fields (h, w) with a margin, padded to a shape."""
    ring, half = _ring(radius)
    turned = np.zeros(shape, np.complex64)
    turned[: len(ring), : len(ring)] = ring[::-1, ::-1]
    turned = np.roll(turned, -half, axis=(0, 1))  # its middle to the first pixel
    right, down = (fft.rfft2(part) for part in (turned.real, turned.imag))
    rows, columns = (_inside(n, margin, half) for n in field)
    return _Sought(right, down, np.maximum(rows @ np.abs(ring) @ columns.T, SEEN))


def _inside(length: int, margin: int, half: int) -> Single:
    """Mark which pixels of a ring lie in the field, for each place along a side of it.

    Places go ``margin`` beyond the side at both ends: (length + 2 * margin, 2 * half + 1).
    """
    at = np.arange(-margin, length + margin)[:, np.newaxis] + np.arange(-half, half + 1)
    return ((at >= 0) & (at < length)).astype(np.float32)


def trace(
    edge: Edges, around: Float, lit: Mask | None = None, *, coarse: bool = False
) -> tuple[Float, Float]:
    """Trace outlines (n, angles, 2) in pixels x, y around n seeds, with their edges (n, angles).

    The edge is NaN outside the field, and where ``lit`` (h, w), by default all of it, is not set.
    Coarse outlines, of half as many angles and radii, say where a finer one may be found.
    """
    some = [around[start : start + AT_ONCE] for start in range(0, len(around), AT_ONCE)]
    traced = [_trace(edge, each, 2 if coarse else 1) for each in some or [around]]
    outlines, along = (np.concatenate(parts) for parts in zip(*traced, strict=True))
    seen = np.ones(edge.shape[1:], bool) if lit is None else lit
    along[~within(seen, outlines)] = np.nan
    return outlines, along


def within(mask: Mask, points: Float) -> Mask:
    """Return whether the pixel nearest to each point (..., 2), x and y, is set; not outside."""
    x, y = np.rint(points).astype(np.intp).transpose(-1, *range(points.ndim - 1))
    known = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    return np.asarray(known & mask.ravel().take(y * mask.shape[1] + x, mode="clip"))


def _trace(edge: Edges, around: Float, step: int) -> tuple[Float, Float]:
    """Trace outlines around a few seeds by every ``step``th angle and radius."""
    turn = 2 * np.pi * np.arange(0, ANGLES, step) / ANGLES
    rays = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    reach = REACH[::step].astype(np.float32)
    seed = around.astype(np.float32)
    gain = _outward_edges(edge, rays, reach, seed)
    less = np.float32(0.1) * (reach - 1) ** 2
    gain -= less[:, np.newaxis]
    path = _closed_path(gain)
    best, top = _top_between(gain, path)
    length = (reach[path] + (reach[1] - reach[0]) * top).T * seed[:, 2:]
    points = seed[:, np.newaxis, :2] + rays * length[..., np.newaxis]
    return points.astype(np.float64), (best + less[path]).T.astype(np.float64)


def enclosed_area(outlines: Float) -> Float:
    """Compute the areas within closed outlines (..., n, 2), in the square of their unit."""
    x, y = outlines[..., 0], outlines[..., 1]
    return np.asarray(np.abs(np.sum(x * np.roll(y, 1, -1) - y * np.roll(x, 1, -1), axis=-1)) / 2)


def joined(outlines: Sequence[Numbers]) -> tuple[Numbers, Index, Index]:
    """Join outlines, (n, 2) each; return the first point's place and the length of each, too."""
    lengths = np.array([len(outline) for outline in outlines], np.intp)
    points = np.concatenate([*outlines, np.empty((0, 2), np.float32)])
    return points, np.cumsum(lengths) - lengths, lengths


def resampled(corners: Float) -> Float:
    """Resample a convex outline (n, 2) to `ANGLES` points at equal distances along it."""
    ring = np.concatenate([corners, corners[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(ring, axis=0), axis=1))])
    at = np.linspace(0, along[-1], ANGLES, endpoint=False)
    return np.stack([np.interp(at, along, ring[:, k]) for k in (0, 1)], axis=1)


def layers(outlines: Sequence[Float], shape: tuple[int, int]) -> NDArray[np.int16]:
    """Count in how many closed outlines, (n, 2) each, the middle of each pixel lies, (h, w).

    An outline must not cross itself.
    """
    _, begins, ends = runs(outlines, shape)
    changes = np.sort(np.concatenate([2 * begins + 1, 2 * ends]))  # odd where a run begins
    depth = np.cumsum(2 * (changes & 1) - 1, dtype=np.int16)
    lengths = np.diff(changes >> 1, prepend=0, append=shape[0] * shape[1])
    return np.repeat(np.append(np.int16(0), depth), lengths).reshape(shape)


def runs(outlines: Sequence[Float], shape: tuple[int, int]) -> tuple[Index, Index, Index]:
    """List the runs of pixels in a row (h, w) whose middles lie in closed outlines, (n, 2) each.

    Return the number of the outline, and where a run begins and ends in the flattened pixels. From
    left to right, a row of pixels enters and leaves an outline where it meets the lines from point
    to point.
    """
    height, width = shape
    points, starts, lengths = joined(outlines)
    (x, y), after = points.T, np.arange(1, len(points) + 1)
    after[starts + lengths - 1] = starts
    x_after, y_after = x[after], y[after]
    first, beyond = (
        np.clip(np.ceil(ends), 0, height).astype(np.intp)
        for ends in (np.minimum(y, y_after), np.maximum(y, y_after))
    )
    rows = beyond - first
    line = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(line)) - (np.cumsum(rows) - rows - first)[line]
    slope = (x_after - x)[line] / (y_after - y)[line]
    column = np.clip(np.ceil(x[line] + (row - y[line]) * slope), 0, width).astype(np.intp)
    size = height * width + 1  # the end of a row is the beginning of the next
    outline = np.repeat(np.arange(len(lengths)), lengths)[line]
    met = np.sort(outline * size + row * width + column).reshape(-1, 2)
    return met[:, 0] // size, met[:, 0] % size, met[:, 1] % size


def _outward_edges(edge: Edges, rays: Single, reach: Single, seed: Single) -> Single:
    """Interpolate how strong edges are along rays, bilinearly, 0 outside the field.

    ``rays`` are unit vectors (angles, 2), ``reach`` the places on them in radii of a ``seed``, x, y
    and radius (n, 3). Return the edges (angles, radii, n).
    """
    if not len(seed):
        return np.empty((len(rays), len(reach), 0), np.float32)
    towards = np.repeat(rays, len(reach), axis=0).T.copy()
    middles, radii = FINE * seed.T[:2, :, np.newaxis], seed[:, 2:]
    # The places of a seed are neighbours in memory too, which makes reading them fast.
    x, y = places = [radii * each for each in FINE * np.tile(reach, len(rays)) * towards]
    for each, middle in zip(places, middles, strict=True):
        each += middle
        np.multiply(np.rint(each, out=each), 1 / FINE, out=each)
    right, down = (
        np.asarray(cv2.remap(part, x, y, cv2.INTER_LINEAR, borderValue=0), np.float32)
        for part in edge
    )
    right *= towards[0]
    down *= towards[1]
    right += down
    by_seed = np.asarray(cv2.transpose(right), np.float32)
    return by_seed.reshape(len(rays), len(reach), len(seed))


def _ring(radius: float) -> tuple[Spectrum, int]:
    """Draw outward unit vectors on a soft ring (side, side) that sum to 1; return half its side."""
    half = int(np.ceil(radius * (1 + 3 * RING_WIDTH)))
    x = np.arange(-half, half + 1)
    z = x + 1j * x[:, np.newaxis]
    away = np.maximum(np.abs(z), 1e-6)
    weight = np.exp(-(((away / radius - 1) / RING_WIDTH) ** 2) / 2)
    return (z / away * weight / weight.sum()).astype(np.complex64), half


def _closed_path(gain: Single) -> Index:
    """Find the path over radii with the highest gain minus its steps, for each of n; (angles, n).

    The gain is that of each radius at each angle, (angles, radii, n). From one angle to the next it
    takes one step at most. The path is followed for one and a half turns, and the turn in the
    middle is kept, so that the ends meet.
    """
    angles, radii, n = gain.shape
    lead = angles // 4
    turn = np.arange(-lead, angles + lead)
    total = np.empty((len(turn), radii + 2, n), np.float32)
    total[:, 0] = total[:, -1] = -np.inf
    total[0, 1:-1] = gain[turn[0]]
    step = np.arange(-1, 2)
    cost = np.abs(step).astype(np.float32) * STIFFNESS
    turned = np.empty((radii, n), np.float32)
    for a in range(1, len(turn)):
        before, here = total[a - 1], total[a, 1:-1]
        np.maximum(before[:-2], before[2:], out=turned)  # a step to either side costs the same
        turned -= STIFFNESS
        np.maximum(before[1:-1], turned, out=here)
        here += gain[turn[a] % angles]
    path = np.empty((len(turn), n), np.intp)  # in the flattened radii and seeds
    path[-1] = total[-1].argmax(axis=0) * n + np.arange(n)
    for a in range(len(turn) - 1, lead, -1):
        worth = total[a - 1].take(path[a] + n * step[:, np.newaxis])
        worth -= cost[:, np.newaxis]
        path[a - 1] = path[a] + n * step[worth.argmax(axis=0)]
    return np.asarray(path[lead : lead + angles] // max(1, n) - 1)


def _top_between(gain: Single, path: Index) -> tuple[Single, Single]:
    """Find the gains of a path, and its offset from the peak of a parabola of three gains.

    The gains are those of the path of `_closed_path` and its neighbours; the offset is -.5 to .5 of
    a step, 0 if there is no top, and at the first and the last radius.
    """
    angles, radii, n = gain.shape
    inner = np.minimum(np.maximum(path, 1), radii - 2)
    middle = (np.arange(angles)[:, np.newaxis] * radii + inner) * n + np.arange(n)
    before, here, after = (gain.take(middle + step * n) for step in (-1, 0, 1))
    bend = 2 * here - before - after
    has_top = (bend > 0) & (path == inner)
    top = np.where(has_top, (after - before) / np.where(has_top, 2 * bend, 1), 0)
    best = np.where(path == inner, here, np.where(path < inner, before, after))
    return best, np.clip(top, -0.5, 0.5)
