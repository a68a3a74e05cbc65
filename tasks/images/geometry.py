"""Scale points and boxes of pictures; the middle of a picture's first pixel is at 0."""

from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.images.decoding import RESIZE
from tasks.types import Field, Float

Box = tuple[int, int, int, int]  # x, y, width and height in pixels


def rescaled(points: NDArray[np.floating], scale: float | NDArray[np.floating]) -> Float:
    """Convert points (n, 2) of a picture to the pixels of one that is ``scale`` times as large.

    >>> rescaled(np.array([[0.0, 1.0]]), 2)
    array([[0.5, 2.5]])

    Args:
        points: x and y.
        scale: a number, or one for x and one for y.
    """
    return np.asarray((points + 0.5) * np.asarray(scale, np.float64) - 0.5)


def box_around(points: NDArray[np.floating], size: tuple[int, int]) -> Box:
    """Find the box of an outline (n, 2), x and y, within a picture of ``size`` width and height.

    >>> box_around(np.array([[-3.0, 1.2], [4.1, 2.0]]), (10, 10))
    (0, 1, 6, 2)
    """
    right, bottom = size[0] - 1, size[1] - 1
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    left, top = min(max(floor(x0), 0), right), min(max(floor(y0), 0), bottom)
    right, bottom = min(max(ceil(x1), 0), right), min(max(ceil(y1), 0), bottom)
    return left, top, right - left + 1, bottom - top + 1


def size_at(shape: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Compute width and height of an array (h, w, ...) at another scale, at least a pixel."""
    height, width = shape[:2]
    return max(1, round(width * scale)), max(1, round(height * scale))


def scaled(field: Field, scale: float) -> Field:
    """Resize a picture (h, w, 3) by a scale."""
    return np.asarray(Image.fromarray(field).resize(size_at(field.shape, scale), RESIZE))


# Microns per pixel that a microscope can have. The 72 to 1200 dots per inch that programs write by
# default are outside this range.
CREDIBLE = (0.01, 10.0)


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
