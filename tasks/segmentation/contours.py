"""Trace closed outlines of round things darker than their surroundings, even if they overlap.

An edge is a complex number that points from dark to bright; its absolute value is 0 to 1. A centre
is where the edges of a whole ring point outwards (a Hough transform by direction). Round it, an
outline is the closed path of radii that gathers the strongest outward edges, found by dynamic
programming. A cell that lies over another one has edges on all sides, since absorbances add up, so
that the overlap belongs to both.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from tasks.types import Amount, Mask

Edges = NDArray[np.complex64]
Float = NDArray[np.float64]
Gain = NDArray[np.float32]

ANGLES = 48
REACH = np.linspace(0.45, 1.6, 36)  # radii of an outline that are tried, in radii of its seed
RING_WIDTH = 0.13  # of a ring's radius; cells are not circles
SOFTNESS = 0.12  # of a typical edge, where an edge counts as a half: pale cells have edges too
SMOOTHING = 0.03  # of a diameter; less than the rim of a cell, more than the camera's noise
STEPS = 2  # by how many of `REACH` an outline may turn from one angle to the next
STIFFNESS = 0.06  # what a step costs, in edges
AT_ONCE = 1024  # seeds that are traced together, each of which takes 100 kB
SEEN = 0.5  # of a ring; of a cell that is cut more than this, the centre is a guess


def edges(amount: Amount, mask: Mask, diameter: float) -> Edges:
    """Compute edges (h, w) of absorbance (h, w), relative to the typical edge of the mask.

    Args:
        amount: absorbance over all channels.
        mask: which pixels hold stain.
        diameter: of a typical cell in pixels.
    """
    sigma = SMOOTHING * diameter
    down, right = (ndimage.gaussian_filter(amount, sigma, order=o) for o in ((1, 0), (0, 1)))
    outward = -(right + 1j * down)
    strength = np.abs(outward)
    rim = mask & ~ndimage.binary_erosion(mask, border_value=1)
    typical = float(np.median(strength[rim])) if rim.any() else 1.0
    return np.asarray(outward / (strength + SOFTNESS * typical), np.complex64)


def seeds(edge: Edges, radii: Float, *, least: float, apart: float, most: int) -> Float:
    """Find centres of rings: x, y and radius in pixels, (n, 3); they may lie outside the field.

    Args:
        edge: of `edges`, (h, w).
        radii: of the rings that are tried, in pixels.
        least: the share of a ring that must point outwards.
        apart: the least distance of two centres in pixels.
        most: how many are returned; of more, those of which the largest share points outwards.
    """
    margin = int(radii.max() * 0.5)
    height, width = (n + 2 * margin for n in edge.shape)
    shape = [fft.next_fast_len(n + 2 * int(1.5 * radii.max()) + 1) for n in (height, width)]
    spectrum = fft.fft2(np.pad(edge, margin), shape)
    inside = fft.rfft2(np.pad(np.ones(edge.shape, np.float32), margin), shape)
    found, shares = [], []
    for r in radii:
        ring, half = _ring(float(r))
        window = np.s_[half : half + height, half : half + width]
        # Correlation with outward unit vectors: the kernel is turned by half a turn, and conjugate.
        kernel = fft.fft2(np.conj(ring[::-1, ::-1]), shape)
        towards = fft.ifft2(spectrum * kernel, overwrite_x=True).real[window]
        seen = fft.irfft2(inside * fft.rfft2(np.abs(ring), shape), shape)[window]
        share = towards / np.maximum(seen, SEEN)
        top = ndimage.maximum_filter(share, size=2 * int(apart / 2) + 1)
        y, x = np.nonzero((share == top) & (share > least))
        found.append(np.stack([x - margin, y - margin, np.full(len(x), r)], axis=1))
        shares.append(share[y, x])
    chosen = np.argsort(-np.concatenate(shares), kind="stable")[:most]
    return np.concatenate(found)[np.sort(chosen)].astype(np.float64)


def trace(edge: Edges, around: Float, angles: int = ANGLES) -> tuple[Float, Float]:
    """Trace outlines (n, angles, 2) in pixels x, y round n seeds, and edges (n, angles) along them.

    The edge is NaN outside the field, where nothing is known.

    Args:
        edge: of `edges`, (h, w).
        around: x, y and radius of the seeds in pixels, (n, 3).
        angles: how many points an outline has; with half of them, half as many radii are tried.
    """
    some = [around[start : start + AT_ONCE] for start in range(0, len(around), AT_ONCE)]
    traced = [_trace(edge, each, angles) for each in some or [around]]
    outlines, along = (np.concatenate(parts) for parts in zip(*traced, strict=True))
    return outlines, along


def _trace(edge: Edges, around: Float, angles: int) -> tuple[Float, Float]:
    """Trace outlines round few seeds, as `trace` does round many."""
    direction = np.exp(2j * np.pi * np.arange(angles) / angles).astype(np.complex64)
    reach = REACH[:: ANGLES // angles].astype(np.float32)
    centre = (around[:, 0] + 1j * around[:, 1]).astype(np.complex64)
    radii = around[:, 2].astype(np.float32)
    rays = direction[:, np.newaxis, np.newaxis] * (reach[:, np.newaxis] * radii) + centre
    met = _between_pixels(edge, rays)
    along = direction.real[:, np.newaxis, np.newaxis] * met.real
    along += direction.imag[:, np.newaxis, np.newaxis] * met.imag
    gain = along - (0.1 * (reach - 1) ** 2)[:, np.newaxis]
    path = _closed_path(gain)
    a, n = np.ogrid[:angles, : len(around)]
    between = (reach[1] - reach[0]) * _top_between(gain, path)
    points = rays[a, path, n] + direction[:, np.newaxis] * between * radii
    height, width = edge.shape
    known = (points.real >= 0) & (points.real <= width - 1)
    known &= (points.imag >= 0) & (points.imag <= height - 1)
    best = np.where(known, along[a, path, n], np.nan)
    outlines = np.stack([points.real, points.imag], axis=2)
    return outlines.transpose(1, 0, 2).astype(np.float64), best.T.astype(np.float64)


def enclosed_area(outlines: Float) -> Float:
    """Compute the areas within closed outlines (..., n, 2), in the square of their unit."""
    x, y = outlines[..., 0], outlines[..., 1]
    return np.asarray(np.abs(np.sum(x * np.roll(y, 1, -1) - y * np.roll(x, 1, -1), axis=-1)) / 2)


def _between_pixels(edge: Edges, places: Edges) -> Edges:
    """Interpolate edges at places x + iy bilinearly, 0 outside the field; of places' shape."""
    if not places.size:
        return places
    flat = places.reshape(-1, places.shape[-1])
    met = cv2.remap(
        edge.view(np.float32).reshape(*edge.shape, 2),
        np.ascontiguousarray(flat.real),
        np.ascontiguousarray(flat.imag),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return np.asarray(met.view(np.complex64).reshape(places.shape))


def _ring(radius: float) -> tuple[Edges, int]:
    """Draw outward unit vectors on a soft ring (side, side) that sum to 1; give half its side."""
    half = int(np.ceil(radius * (1 + 3 * RING_WIDTH)))
    x = np.arange(-half, half + 1)
    z = x + 1j * x[:, np.newaxis]
    away = np.maximum(np.abs(z), 1e-6)
    weight = np.exp(-(((away / radius - 1) / RING_WIDTH) ** 2) / 2)
    return (z / away * weight / weight.sum()).astype(np.complex64), half


def _closed_path(gain: Gain) -> NDArray[np.intp]:
    """Find the path over radii with the highest gain less its steps, for each of n; (angles, n).

    It is followed for half a turn more than one, and the turn in the middle is kept, so that the
    ends meet.

    Args:
        gain: of each radius at each angle, (angles, radii, n).
    """
    angles, radii, n = gain.shape
    lead = angles // 4
    turn = np.arange(-lead, angles + lead)
    total = np.full((len(turn), radii + 2 * STEPS, n), -np.inf, np.float32)
    total[0, STEPS:-STEPS] = gain[turn[0]]
    step = np.arange(-STEPS, STEPS + 1)
    cost = (STIFFNESS * step**2).astype(np.float32)
    for a in range(1, len(turn)):
        here = total[a, STEPS:-STEPS]
        for s, c in zip(step, cost, strict=True):
            np.maximum(here, total[a - 1, STEPS + s : STEPS + s + radii] - c, out=here)
        here += gain[turn[a] % angles]
    path = np.empty((len(turn), n), np.intp)
    path[-1] = total[-1].argmax(axis=0)
    for a in range(len(turn) - 1, 0, -1):
        came_from = path[a] + step[:, np.newaxis]
        worth = total[a - 1, came_from, np.arange(n)] - cost[:, np.newaxis]
        path[a - 1] = path[a] + step[worth.argmax(axis=0)]
    return path[lead : lead + angles] - STEPS


def _top_between(gain: Gain, path: NDArray[np.intp]) -> Gain:
    """Find how far a path is from the top of a parabola through three gains, -.5 to .5 of a step.

    The gains are those of the path and beside it; the result is 0 where they have no top, and at
    the first and the last radius.

    Args:
        gain: of each radius at each angle, (angles, radii, n).
        path: of `_closed_path`, (angles, n).
    """
    a, n = np.ogrid[: gain.shape[0], : gain.shape[2]]
    last = gain.shape[1] - 1
    before, here, after = (gain[a, np.clip(path + step, 0, last), n] for step in (-1, 0, 1))
    bend = 2 * here - before - after
    has_top = (bend > 0) & (path > 0) & (path < last)
    top = np.where(has_top, (after - before) / np.where(has_top, 2 * bend, 1), 0)
    return np.clip(top, -0.5, 0.5)
