"""Describe slides, scale points and boxes, and cut out cells; a first pixel's middle is at 0."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import cv2
import numpy as np
from PIL import Image, ImageDraw

from tasks.images.decoding import RESIZE
from tasks.types import Float, Numbers, Pixels, Single

Box = tuple[int, int, int, int]  # x, y, width and height in pixels

# Microns per pixel that a microscope can have. The 72 to 1200 dots per inch that programs write by
# default are outside this range.
CREDIBLE = (0.01, 10.0)
TRAINING_DIAMETER = 130  # pixels of the median training cell
# An outline lies in the middle of a cell's edge. Slightly within it there is no bright ground,
# which the network of another laboratory may take for a part of the cell.
WITHIN = 0.98  # of the outline's size


@dataclass(frozen=True)
class Slide:
    """An open slide: a picture too large to decode at once, at one or more resolutions.

    ``width`` and ``height`` are in pixels of level 0, ``downsamples`` those of each level along a
    side, 1.0 first; ``microns_per_pixel`` are of level 0, None if not stated, or impossible.
    """

    width: int
    height: int
    downsamples: tuple[float, ...]
    microns_per_pixel: float | None
    read_box: Callable[[Box, int], Pixels]

    def read(self, x: int, y: int, width: int, height: int, level: int = 0) -> Pixels:
        """Read a box at the resolution of a level, RGB; BadImageError says why there are none.

        They are (round(height / downsample), round(width / downsample), 3), white outside the slide
        or where it was never scanned. The box is in pixels of level 0, and may begin before 0.
        """
        return self.read_box((x, y, width, height), level)


def coarsest(downsamples: Sequence[float], fits: Callable[[float], bool]) -> int:
    """Return the level of the largest downsample that fits, or else level 0."""
    levels = [level for level, each in enumerate(downsamples) if fits(each)]
    return max(levels, key=lambda level: downsamples[level], default=0)


def rescaled(points: Numbers, scale: float | Numbers) -> Float:
    """Convert points (n, 2) to a picture ``scale`` times as large, or by scales for x and y."""
    return np.asarray((points + 0.5) * np.asarray(scale, np.float64) - 0.5)


def shape_of(outline: Single) -> tuple[float, float, float]:
    """Measure the area, eccentricity and solidity of an outline (n, 2), n >= 3, x and y.

    The area is in squares of the outline's unit. The eccentricity, 0 for a circle and below 1, is
    that of the ellipse with the same second moments; the solidity is the share of its convex hull
    that the outline fills. NaN without an area.
    """
    moments = cv2.moments(outline)
    area, hull = moments["m00"], cv2.contourArea(cv2.convexHull(outline))
    if not area > 0 < hull:
        return (np.nan,) * 3
    across, down, both = (moments[name] for name in ("mu20", "mu02", "mu11"))
    away = float(np.hypot(across - down, 2 * both))
    short, long = across + down - away, across + down + away
    return area, float(np.sqrt(np.clip(1 - short / long, 0, 1))), min(1.0, area / hull)


def box_around(points: Numbers, size: tuple[int, int]) -> Box:
    """Find the box of an outline (n, 2), x and y, within a picture of ``size`` width and height."""
    right, bottom = size[0] - 1, size[1] - 1
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    left, top = min(max(floor(x0), 0), right), min(max(floor(y0), 0), bottom)
    right, bottom = min(max(ceil(x1), 0), right), min(max(ceil(y1), 0), bottom)
    return left, top, right - left + 1, bottom - top + 1


def grown(box: Box, more: int, size: tuple[int, int]) -> Box:
    """Enlarge a box by pixels on all sides, within a picture of ``size`` width and height.

    >>> grown((1, 5, 4, 4), 2, (10, 10))
    (0, 3, 7, 7)
    """
    x, y, width, height = box
    left, top = max(x - more, 0), max(y - more, 0)
    right, bottom = min(x + width + more, size[0]), min(y + height + more, size[1])
    return left, top, right - left, bottom - top


def size_at(shape: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Compute width and height of an array (h, w, ...) at another scale, at least a pixel."""
    height, width = shape[:2]
    return max(1, round(width * scale)), max(1, round(height * scale))


def scaled(field: Pixels, scale: float) -> Pixels:
    """Resize a picture (h, w, 3) by halves, then bilinearly: Pillow takes five times as long."""
    size = size_at(field.shape, scale)
    while scale <= 0.5 and min(field.shape[:2]) > 1:
        half = field.shape[1] // 2, field.shape[0] // 2
        field, scale = np.asarray(cv2.resize(field, half, interpolation=cv2.INTER_AREA)), 2 * scale
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_LINEAR))


def box_at(box: Box, downsample: float) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a slide's box in pixels of a level.

    >>> box_at((10, 21, 8, 7), 2.0)
    (5, 10, 9, 14)
    """
    x, y, width, height = box
    left, top = round(x / downsample), round(y / downsample)
    return left, top, left + round(width / downsample), top + round(height / downsample)


def credible(microns_per_pixel: float | None) -> float | None:
    """Return a number of microns per pixel; None if no microscope can have it."""
    low, high = CREDIBLE
    known = microns_per_pixel is not None and low <= microns_per_pixel <= high
    return microns_per_pixel if known else None


def cut_out(pixels: Pixels, outline: Single | None, scale: float) -> Image.Image:
    """Cut out a region (h, w, 3) at the training cells' size, black outside an outline if given.

    Decoding resizes it to a square, as with the training cells: large and small cells then fill it
    alike, but the grain of a scaled field no longer reveals its magnification. The outline (n, 2)
    is in pixels of the region, the scale in output pixels for each of them.
    """
    picture = Image.fromarray(pixels).resize(size_at(pixels.shape, scale), RESIZE)
    if outline is None:
        return picture
    middle = outline.mean(axis=0)
    outline = middle + WITHIN * (outline - middle)
    corners = rescaled(outline, np.array(picture.size) / pixels.shape[1::-1])
    inside = Image.new("1", picture.size)
    ImageDraw.Draw(inside).polygon(corners.ravel().tolist(), fill=1)
    cell = Image.new("RGB", picture.size)
    cell.paste(picture, mask=inside)
    # A cell overlapped by another is smaller than its region.
    return cell.crop(inside.getbbox() or (0, 0, 1, 1))
