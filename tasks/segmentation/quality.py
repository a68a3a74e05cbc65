"""Measure whether a field of view is fit to be read: its focus, exposure, stain and crowding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon

from tasks.images.decoding import RESIZE
from tasks.images.geometry import scaled
from tasks.segmentation.cells import Cells
from tasks.types import Field

SHADOW, HIGHLIGHT = 2, 253  # of 255; JPEG moves what was clipped by a level or two
PACKED_DIAMETER = 12  # pixels of a cell at which ground is looked for between cells
SQUARE = 4  # cells' widths; a clump of cells, or a white one, does not fill it
GROUND = 0.25  # absorbance of green at most; the lamp's fall towards the corners is less
LEAST_GROUND = 0.05  # share of a square; where less is seen, cells lie over one another
FOCUS_DIAMETER = 48  # pixels of a cell at which edges are compared


@dataclass(frozen=True)
class FieldQuality:
    """Describe the quality of a field's photograph.

    ``sharpness``: see `sharpness`. ``too_dark`` and ``too_bright``: shares of pixels, 0 to 1, where
    a channel is clipped. ``brightness``: the mean of all channels, 0 to 1. ``stain``: mean red,
    green and blue of the pixels of cells, 0 to 255, NaN without cells. ``cells``: how many.
    ``covered``: the share of the field that cells cover, 0 to 1. ``overlap``: the share of that
    which lies in more than one cell, 0 to 1, NaN without cells. ``packed``: see `packed`.
    """

    sharpness: float
    too_dark: float
    too_bright: float
    brightness: float
    stain: tuple[float, float, float]
    cells: int
    covered: float
    overlap: float
    packed: float


def field_quality(field: Field, found: Cells, *, focus: float | None = None) -> FieldQuality:
    """Measure the quality of a field, RGB uint8 (h, w, 3), in which ``found`` are the cells.

    ``focus`` is its sharpness where that is known already.
    """
    layers = layers_of_cells(found, field.shape)
    covered = int(np.count_nonzero(layers))
    stain = field[layers > 0].mean(axis=0).tolist() if covered else [np.nan] * 3
    return FieldQuality(
        sharpness=sharpness(field, found.diameter) if focus is None else focus,
        too_dark=float((field <= SHADOW).any(axis=2).mean()),
        too_bright=float((field >= HIGHLIGHT).any(axis=2).mean()),
        brightness=float(field.mean()) / 255,
        stain=(stain[0], stain[1], stain[2]),
        cells=len(found.cells),
        covered=covered / layers.size,
        overlap=np.count_nonzero(layers > 1) / covered if covered else np.nan,
        packed=packed(field, found.diameter),
    )


def sharpness(field: Field, diameter: float) -> float:
    """Divide the variance of the Laplacian of brightness by that of brightness; at least 0.

    It is taken where a cell is `FOCUS_DIAMETER` pixels wide, so that magnification does not matter,
    behind a Gaussian of one pixel, so that the camera's noise does not, and divided by the
    variance, so that contrast does not. 0 for a field of one colour; NaN where the diameter is not
    known.

    Args:
        field: RGB uint8 (h, w, 3).
        diameter: of the median cell in pixels.
    """
    if not np.isfinite(diameter):
        return float("nan")
    grey = Image.fromarray(field.mean(axis=2, dtype=np.float32))
    size = [max(1, round(n * FOCUS_DIAMETER / diameter)) for n in grey.size]
    levels = np.asarray(grey.resize((size[0], size[1]), RESIZE))
    contrast = float(levels.var())
    return float(ndimage.gaussian_laplace(levels, 1).var()) / contrast if contrast else 0.0


def packed(field: Field, diameter: float) -> float:
    """Measure the share of a field, 0 to 1, where cells are so thick that hardly any ground shows.

    It is divided into squares about `SQUARE` cells wide; ground is what is hardly darker than the
    brightest of the field. NaN where the diameter is not known.

    Args:
        field: RGB uint8 (h, w, 3).
        diameter: of the median cell in pixels.
    """
    if not np.isfinite(diameter):
        return float("nan")
    # Eosin and azure both absorb green.
    green = scaled(field, PACKED_DIAMETER / diameter)[..., 1]
    ground = green > np.percentile(green, 99) * np.exp(-GROUND)
    rows, columns = (max(1, round(n / (SQUARE * PACKED_DIAMETER))) for n in ground.shape)
    squares = [
        square.mean()
        for strip in np.array_split(ground, rows)
        for square in np.array_split(strip, columns, axis=1)
    ]
    return float(np.mean(np.array(squares) < LEAST_GROUND))


def layers_of_cells(found: Cells, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Count the cells in which each pixel lies, (h, w)."""
    layers = np.zeros(shape[:2], np.int32)
    for cell in found.cells:
        layers[polygon(cell.outline[:, 1], cell.outline[:, 0], layers.shape)] += 1
    return layers
