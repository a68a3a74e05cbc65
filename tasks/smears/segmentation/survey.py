"""Survey where the cells of a slide can be distinguished: a grid of empty, thick or good fields.

Only the green channel is used, which haemoglobin, eosin and azure all absorb, at a resolution at
which cells are a few pixels wide. A place is judged by its histogram, so the picture of the slide
is never in memory.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import ceil, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.images import decoding, geometry
from tasks.types import Numbers, Pixels

RED_CELL = 7.5  # microns across
LEAST_DIAMETER = 8  # pixels; a smaller cell cannot be diagnosed
WORKING = 0.15  # largest microns per pixel for the search; a cell is then 50 pixels wide
FIELD = 1024  # largest side of a field in pixels there
# Most cell diameters along a field's side; small cells are enlarged for the search.
FIELD_CELLS = 80
# A glass is 76 x 26 mm, the widest that holders take 76 x 52; plus a tenth for the scanner.
GLASS = 84_000.0, 58_000.0  # microns
SURVEYED = 1.0  # microns per pixel for judging places; gaps between cells are visible
BLOCK = 2048  # side of a block that is read at once, in pixels
DARKEST_GLASS = 128  # no scanner's exposure makes bare glass darker
GLASS_SPREAD = 0.85  # of the brightest level; the commonest level above it is bare glass
STAIN = 0.08  # least absorbance of stain; lamp and seams between stripes vary by less
LEAST_STAIN = 0.5  # stained area, in red cells, of a place with cells
LEAST_GLASS = 0.05  # share of a place; with less, cells overlap


def survey(slide: geometry.Slide, microns_per_pixel: float | None = None) -> list[dict[str, Any]]:
    """Lay a grid over a slide and judge each place; ``microns_per_pixel`` if the slide has none.

    Return a row for each place, in reading order: its box in pixels of level 0; its kind, where
    ``empty`` shows no stain, and ``thick`` hardly any glass between the cells; the level for the
    search, and a red cell's diameter in pixels of level 0. Memory is some bytes per place.

    Raises:
        BadImageError: the magnification is unknown or too low, the slide is larger than any glass,
            or it is damaged.
    """
    scale = geometry.credible(slide.microns_per_pixel) or geometry.credible(microns_per_pixel)
    if scale is None:
        raise decoding.BadImageError(
            "unknown_magnification",
            "the file does not say how many microns a pixel is wide: say it with "
            f"--microns-per-pixel, {geometry.CREDIBLE[0]} to {geometry.CREDIBLE[1]:g}",
        )
    diameter = RED_CELL / scale
    if diameter < LEAST_DIAMETER:
        raise decoding.BadImageError(
            "too_coarse",
            f"at {scale:g} microns per pixel a red cell is {diameter:.1f} pixels wide, and "
            f"{LEAST_DIAMETER} are needed: scan the slide at a higher magnification",
        )
    _refuse_larger_than_glass(slide, scale)
    level = geometry.coarsest(slide.downsamples, lambda each: each * scale <= WORKING)
    side = min(FIELD * slide.downsamples[level], FIELD_CELLS * diameter)
    across, down = (  # the fewest equal parts that are no longer than a side
        [round(i * length / parts) for i in range(parts + 1)]
        for length in (slide.width, slide.height)
        for parts in (ceil(length / side),)
    )
    histograms = _histograms(slide, scale, across, down)
    kinds = _judge(histograms, np.outer(np.diff(down), np.diff(across)) * scale**2)
    about = {"level": level, "microns_per_pixel": scale, "diameter": diameter}
    return [
        {**about, "x": x, "y": y, "width": right - x, "height": bottom - y, "kind": kind}
        for of_row, (y, bottom) in zip(kinds, pairwise(down), strict=True)
        for kind, (x, right) in zip(of_row, pairwise(across), strict=True)
    ]


def _refuse_larger_than_glass(slide: geometry.Slide, microns_per_pixel: float) -> None:
    """Refuse a slide whose header claims more than any glass has, before reading it."""
    sides = [side * microns_per_pixel for side in (slide.width, slide.height)]
    if max(sides) > GLASS[0] or min(sides) > GLASS[1]:
        across, down = (side / 1000 for side in sides)
        raise decoding.BadImageError(
            "too_large",
            f"{slide.width} x {slide.height} pixels of {microns_per_pixel:g} microns are "
            f"{across:.0f} x {down:.0f} mm, and no glass is larger than "
            f"{GLASS[0] / 1000:.0f} x {GLASS[1] / 1000:.0f}: see whether the file or "
            "--microns-per-pixel is wrong",
        )


def _histograms(
    slide: geometry.Slide, microns_per_pixel: float, across: list[int], down: list[int]
) -> NDArray[np.int32]:
    """Count the pixels of each brightness (256) of green in each place (rows, columns)."""
    level = geometry.coarsest(slide.downsamples, lambda each: each * microns_per_pixel <= SURVEYED)
    downsample = slide.downsamples[level]
    shrink = max(1, int(SURVEYED / (microns_per_pixel * downsample)))
    out = np.zeros((len(down) - 1, len(across) - 1, 256), np.int32)
    for rows in _runs(down, BLOCK * downsample):
        for columns in _runs(across, BLOCK * downsample):
            ys, xs = down[rows.start : rows.stop + 1], across[columns.start : columns.stop + 1]
            x, y = xs[0], ys[0]
            # A copy of one channel; otherwise the block would stay in memory while the next is
            # read.
            green = slide.read(x, y, xs[-1] - x, ys[-1] - y, level)[..., 1].copy()
            small = _shrunk(green, shrink)
            at_x = _rescaled(xs, small.shape[1])
            at_y = _rescaled(ys, small.shape[0])
            for row, top, bottom in zip(rows, at_y, at_y[1:], strict=False):
                for column, left, right in zip(columns, at_x, at_x[1:], strict=False):
                    place = small[top:bottom, left:right].ravel()
                    out[row, column] = np.bincount(place, minlength=256)
    return out


def _runs(edges: list[int], most: float) -> Iterator[range]:
    """Group successive parts to read at once, no longer than ``most`` unless it is one part."""
    first = 0
    for part in range(1, len(edges)):
        last = part == len(edges) - 1
        if last or edges[part + 1] - edges[first] > most:
            yield range(first, part)
            first = part


def _rescaled(edges: list[int], length: int) -> list[int]:
    whole = edges[-1] - edges[0]
    return [round((edge - edges[0]) * length / whole) for edge in edges]


def _shrunk(levels: Pixels, factor: int) -> Pixels:
    """Average squares of pixels; drop remainders at two sides, unless nothing else is left."""
    height, width = (length // factor for length in levels.shape)
    if factor == 1 or not height or not width:
        return levels
    squares = levels[: height * factor, : width * factor]
    means = squares.reshape(height, factor, width, factor).mean(axis=(1, 3), dtype=np.float32)
    return np.asarray(means, np.uint8)


def _judge(histograms: NDArray[np.int32], areas: Numbers) -> list[list[str]]:
    limit = _glass(histograms) * np.exp(-STAIN)
    pixels = histograms.sum(axis=2)
    stained = histograms[..., : ceil(limit)].sum(axis=2) / np.maximum(pixels, 1)
    cell = pi / 4 * RED_CELL**2
    empty = stained * areas < LEAST_STAIN * cell
    kinds = np.where(empty, "empty", np.where(1 - stained < LEAST_GLASS, "thick", "field"))
    return list(kinds.tolist())


def _glass(histograms: NDArray[np.int32]) -> float:
    """Find the brightness of bare glass: the commonest bright level.

    Places of a single brightness do not count: they were never scanned, and may be whiter.
    """
    scanned = np.count_nonzero(histograms, axis=2) > 1
    total = histograms.sum(axis=(0, 1), where=scanned[..., np.newaxis])
    if not total.any():
        return DARKEST_GLASS
    brightest = int(np.searchsorted(np.cumsum(total), 0.99 * total.sum()))
    start = int(GLASS_SPREAD * brightest)
    return max(DARKEST_GLASS, start + int(np.argmax(total[start : brightest + 1])))
