"""Closed outlines of round things that are darker than what surrounds them, even if they overlap.

An edge is a complex number that points from dark to bright; its absolute value is 0 to 1. A centre
is where the edges of a whole ring point outwards (a Hough transform by direction). Round it, an
outline is the closed path of radii that gathers the strongest outward edges, found by dynamic
programming. A cell that lies over another one has edges on all sides, since absorbances add up, so
that the overlap belongs to both.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from tasks.absorbance import Amount, Mask

Edges = NDArray[np.complex64]
Float = NDArray[np.float64]

ANGLES = 48
REACH = np.linspace(0.45, 1.6, 36)  # radii of an outline that are tried, in radii of its seed
RING_WIDTH = 0.13  # of a ring's radius; cells are not circles
SOFTNESS = 0.12  # of a typical edge, where an edge counts as a half: pale cells have edges too
SMOOTHING = 0.03  # of a diameter; less than the rim of a cell, more than the camera's noise
STEPS = 2  # by how many of `REACH` an outline may turn from one angle to the next
STIFFNESS = 0.06  # what a step costs, in edges
SEEN = 0.5  # of a ring; of a cell that is cut more than this, the centre is a guess


def edges(amount: Amount, mask: Mask, diameter: float) -> Edges:
    """From absorbance (h, w) to edges (h, w), relative to the typical edge of the mask.

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


def seeds(edge: Edges, radii: Float, *, least: float, apart: float) -> Float:
    """Centres of rings: x, y and radius in pixels, (n, 3); they may lie outside the field.

    Args:
        edge: of `edges`, (h, w).
        radii: of the rings that are tried, in pixels.
        least: the share of a ring that must point outwards.
        apart: the least distance of two centres in pixels.
    """
    margin = int(radii.max() * 0.5)
    padded = np.pad(edge, margin)
    shape = [fft.next_fast_len(n + 2 * int(1.5 * radii.max()) + 1) for n in padded.shape]
    spectrum = fft.fft2(padded, shape)
    inside = fft.fft2(np.pad(np.ones(edge.shape, np.complex64), margin), shape)
    found = []
    height, width = padded.shape
    for r in radii:
        ring, half = _ring(float(r))
        window = np.s_[half : half + height, half : half + width]
        # Correlation with outward unit vectors: the kernel is turned by half a turn, and conjugate.
        towards = fft.ifft2(spectrum * fft.fft2(np.conj(ring[::-1, ::-1]), shape)).real[window]
        seen = fft.ifft2(inside * fft.fft2(np.abs(ring).astype(np.complex64), shape)).real[window]
        share = towards / np.maximum(seen, SEEN)
        top = ndimage.maximum_filter(share, size=2 * int(apart / 2) + 1)
        y, x = np.nonzero((share == top) & (share > least))
        found.append(np.stack([x - margin, y - margin, np.full(len(x), r)], axis=1))
    return np.concatenate(found).astype(np.float64)


def trace(edge: Edges, around: Float) -> tuple[Float, Float]:
    """Outlines (n, angles, 2) in pixels x, y round n seeds, and the edges (n, angles) along them.

    The edge is NaN outside the field, where nothing is known.
    """
    direction = np.exp(2j * np.pi * np.arange(ANGLES) / ANGLES)
    centre = around[:, 0] + 1j * around[:, 1]
    rays = centre[:, None, None] + around[:, 2, None, None] * direction[:, None] * REACH
    places = np.stack([rays.imag, rays.real])
    towards = sum(
        ndimage.map_coordinates(part, places, order=1, mode="constant") * share[:, None]
        for part, share in ((edge.real, direction.real), (edge.imag, direction.imag))
    )
    path = _closed_path(np.asarray(towards) - 0.1 * (REACH - 1) ** 2)
    n, a = np.ogrid[: len(around), :ANGLES]
    points = rays[n, a, path]
    height, width = edge.shape
    known = (points.real >= 0) & (points.real <= width - 1)
    known &= (points.imag >= 0) & (points.imag <= height - 1)
    along = np.where(known, np.asarray(towards)[n, a, path], np.nan)
    return np.stack([points.real, points.imag], axis=2), along


def enclosed_area(outline: Float) -> float:
    """Area within a closed outline (n, 2), in the square of its unit."""
    x, y = outline.T
    return abs(float(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1)))) / 2


def _ring(radius: float) -> tuple[Edges, int]:
    """Outward unit vectors on a soft ring, (side, side), that sum up to 1; and half the side."""
    half = int(np.ceil(radius * (1 + 3 * RING_WIDTH)))
    x = np.arange(-half, half + 1)
    z = x + 1j * x[:, np.newaxis]
    away = np.maximum(np.abs(z), 1e-6)
    weight = np.exp(-(((away / radius - 1) / RING_WIDTH) ** 2) / 2)
    return (z / away * weight / weight.sum()).astype(np.complex64), half


def _closed_path(gain: Float) -> NDArray[np.intp]:
    """The path over radii with the highest gain less its steps, for each of n; (n, angles).

    Two rounds are followed and the middle one is kept, so that the ends meet.

    Args:
        gain: of each radius at each angle, (n, angles, radii).
    """
    n, angles, radii = gain.shape
    total = gain[:, 0]
    came_from = np.zeros((2 * angles, n, radii), np.int8)
    for a in range(1, 2 * angles):
        padded = np.pad(total, ((0, 0), (STEPS, STEPS)), constant_values=-np.inf)
        moves = np.stack(
            [
                padded[:, STEPS + step : STEPS + step + radii] - STIFFNESS * step * step
                for step in range(-STEPS, STEPS + 1)
            ]
        )
        came_from[a] = moves.argmax(axis=0) - STEPS
        total = moves.max(axis=0) + gain[:, a % angles]
    path = np.empty((2 * angles, n), np.intp)
    path[-1] = total.argmax(axis=1)
    for a in range(2 * angles - 1, 0, -1):
        path[a - 1] = path[a] + came_from[a, np.arange(n), path[a]]
    middle = path[angles // 2 : angles // 2 + angles]
    return np.roll(middle, angles // 2, axis=0).T
