"""Draw cells as pages show them: small, and at their place in the field."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from tasks.images.geometry import Box, rescaled
from tasks.smears.visualisation.overlay import Colour, outline_of, overlay, pen_of
from tasks.smears.visualisation.page import as_webp
from tasks.types import Pixels

THUMBNAIL = 128  # pixels of the longer side at most
WIDTHS = 2.0  # widths of the cell shown of its field to each side
SIDE = 224  # pixels of the longer side of a cell's place
ARM = 0.2  # of the cell's box: how long the marks at its corners are


def thumbnail(image: Image.Image) -> bytes:
    """Encode an image as a WebP file, reduced if it is larger than `THUMBNAIL`."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return as_webp(small, quality=85)


def lies_near(row: Mapping[str, Any], cell: Mapping[str, Any]) -> bool:
    """Return whether a cell's box overlaps the window of the field around another cell."""
    more = round(WIDTHS * max(cell["width"], cell["height"]))
    return all(
        row[at] < cell[at] + cell[side] + more and row[at] + row[side] > cell[at] - more
        for at, side in (("x", "width"), ("y", "height"))
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
    return as_webp(Image.fromarray(drawn))


def _mark(pixels: Pixels, low: ArrayLike, high: ArrayLike) -> None:
    """Draw the corners of a box over a picture, white on black to be visible on any ground."""
    (left, top), (right, bottom) = np.asarray(low) - 3, np.asarray(high) + 3
    arm = max(4.0, ARM * float(right - left))

    def fill(colour: Colour, across: Sequence[float], down: Sequence[float]) -> None:
        x0, x1 = (int(np.clip(round(v), 0, pixels.shape[1])) for v in across)
        y0, y1 = (int(np.clip(round(v), 0, pixels.shape[0])) for v in down)
        pixels[y0:y1, x0:x1] = colour

    for colour, wide in (((0, 0, 0), 2), ((255, 255, 255), 1)):
        for x, to_x in ((left, 1), (right, -1)):
            for y, to_y in ((top, 1), (bottom, -1)):
                fill(colour, sorted((x, x + to_x * arm)), (y - wide, y + wide))
                fill(colour, (x - wide, x + wide), sorted((y, y + to_y * arm)))
