"""Read whole slides in the formats of scanners with OpenSlide, from a local disk."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from openslide import PROPERTY_NAME_MPP_X, PROPERTY_NAME_MPP_Y, OpenSlide, OpenSlideError
from PIL import Image

from tasks.images.formats.tiff import check_tile, damaged
from tasks.images.geometry import Box, Slide, credible
from tasks.types import Pixels

WHITE = (255, 255, 255, 255)


def _read(
    path: Path, handle: OpenSlide, downsamples: Sequence[float], box: Box, level: int
) -> Pixels:
    x, y, width, height = box
    size = round(width / downsamples[level]), round(height / downsamples[level])
    try:
        try:
            region = handle.read_region((x, y), level, size)
        except OpenSlideError:
            # A handle stays unusable after an error; intact regions can be read through a new one.
            with OpenSlide(path) as another:
                region = another.read_region((x, y), level, size)
    except OpenSlideError as error:
        raise damaged(error) from None
    white = Image.new("RGBA", region.size, WHITE)
    return np.asarray(Image.alpha_composite(white, region).convert("RGB"))


def is_of_a_scanner(path: Path) -> bool:
    """Return whether a file has a scanner's format that OpenSlide knows; a plain TIFF has none."""
    return OpenSlide.detect_format(path) not in {None, "generic-tiff"}


def open_vendor(path: Path) -> Slide:
    """Open a slide of a scanner; BadImageError says why it cannot be read."""
    try:
        handle = OpenSlide(path)
        _check_tiles(handle)
        levels, microns = handle.level_downsamples, _microns_per_pixel(handle)
        return Slide(*handle.dimensions, levels, microns, partial(_read, path, handle, levels))
    except OpenSlideError as error:
        raise damaged(error) from None


def _check_tiles(handle: OpenSlide) -> None:
    # OpenSlide ends the process when it lacks memory for a tile.
    for level in range(handle.level_count):
        names = [f"openslide.level[{level}].tile-{side}" for side in ("width", "height")]
        # Some formats do not state it, because their tiles have a fixed size.
        if all(name in handle.properties for name in names):
            check_tile(*(int(handle.properties[name]) for name in names))


def _microns_per_pixel(handle: OpenSlide) -> float | None:
    known = handle.properties
    try:
        return credible((float(known[PROPERTY_NAME_MPP_X]) + float(known[PROPERTY_NAME_MPP_Y])) / 2)
    except (KeyError, ValueError):
        return None
