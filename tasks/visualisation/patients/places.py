"""Draw called cells at their place in the field, among the contours of their neighbours."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from tasks.images.geometry import Box, rescaled
from tasks.visualisation.overlay import Pixels, outline_of, overlay, pen_of

WIDTHS = 2.0  # widths of the cell shown of its field to each side
SIDE = 224  # pixels of a picture's longer side
QUALITY = 80
FRAME = (255, 255, 255)
ARM = 0.2  # of the cell's box: how long the marks at its corners are


def window_around(row: Mapping[str, Any]) -> Box:
    """Choose the window of a field around a cell: x, y, width and height in its source.

    It may reach beyond the source.
    """
    more = round(WIDTHS * max(row["width"], row["height"]))
    return (
        row["x"] - more,
        row["y"] - more,
        row["width"] + 2 * more,
        row["height"] + 2 * more,
    )


def lies_in(row: Mapping[str, Any], window: Box) -> bool:
    """Return whether a cell's box and a window overlap."""
    x, y, width, height = window
    return bool(
        row["x"] < x + width
        and row["x"] + row["width"] > x
        and row["y"] < y + height
        and row["y"] + row["height"] > y
    )


def place_picture(
    pixels: Pixels,
    window: Box,
    cell: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    outlines: Sequence[ArrayLike],
) -> bytes:
    """Draw a window of a field with contours, and marks at the corners of one cell; a WebP file.

    ``pixels`` are of the window, RGB uint8 (h, w, 3), at whatever scale; the window is in pixels of
    the source. ``cell`` is marked; the cells ``rows`` have contours, `outline_of` their outlines.
    """
    picture = Image.fromarray(pixels)
    shrink = SIDE / max(picture.size)
    size = tuple(max(1, round(side * shrink)) for side in picture.size)
    picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    x, y, width, height = window
    scale = np.array(picture.size) / [width, height]
    placed = [
        rescaled(outline_of(row, flat) - [x, y], scale)
        for row, flat in zip(rows, outlines, strict=True)
    ]
    drawn = np.array(overlay(np.asarray(picture), placed, [pen_of(row) for row in rows]))
    corner = np.array([cell["x"] - x, cell["y"] - y])
    _mark(drawn, corner * scale, (corner + np.array([cell["width"], cell["height"]])) * scale)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "WEBP", quality=QUALITY, method=6)
    return file.getvalue()


def _mark(pixels: Pixels, low: ArrayLike, high: ArrayLike) -> None:
    """Draw the corners of a box over a picture, white on black to be visible on any ground."""
    (left, top), (right, bottom) = np.asarray(low) - 3, np.asarray(high) + 3
    arm = max(4.0, ARM * float(right - left))
    for colour, wide in (((0, 0, 0), 2), (FRAME, 1)):
        for x, to_x in ((left, 1), (right, -1)):
            for y, to_y in ((top, 1), (bottom, -1)):
                _fill(pixels, sorted((x, x + to_x * arm)), (y - wide, y + wide), colour)
                _fill(pixels, (x - wide, x + wide), sorted((y, y + to_y * arm)), colour)


def _fill(
    pixels: Pixels, across: Sequence[float], down: Sequence[float], colour: tuple[int, int, int]
) -> None:
    height, width = pixels.shape[:2]
    x0, x1 = (int(np.clip(round(v), 0, width)) for v in across)
    y0, y1 = (int(np.clip(round(v), 0, height)) for v in down)
    pixels[y0:y1, x0:x1] = colour
