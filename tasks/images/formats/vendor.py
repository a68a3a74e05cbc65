"""Read whole slides in the formats of scanners with OpenSlide, from a local disk."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openslide import PROPERTY_NAME_MPP_X, PROPERTY_NAME_MPP_Y, OpenSlide, OpenSlideError
from PIL import Image

from tasks.images.decoding import BadImageError
from tasks.images.formats.tiff import check_tile
from tasks.images.geometry import credible

WHITE = (255, 255, 255, 255)


@dataclass(frozen=True)
class VendorSlide:
    """A slide opened with OpenSlide; see `tasks.images.opened_slides.Slide`."""

    path: Path
    width: int
    height: int
    downsamples: tuple[float, ...]
    microns_per_pixel: float | None
    _handle: OpenSlide = field(repr=False)

    def read(self, x: int, y: int, width: int, height: int, level: int = 0) -> NDArray[np.uint8]:
        """Read the pixels of a box of level 0 at the resolution of a level; see `Slide.read`."""
        downsample = self.downsamples[level]
        size = round(width / downsample), round(height / downsample)
        try:
            try:
                region = self._handle.read_region((x, y), level, size)
            except OpenSlideError:
                # A handle stays unusable after an error; intact regions can be read through a new
                # one.
                with OpenSlide(self.path) as handle:
                    region = handle.read_region((x, y), level, size)
        except OpenSlideError as error:
            raise BadImageError("damaged", f"{error}; copy the slide again") from None
        white = Image.new("RGBA", region.size, WHITE)
        return np.asarray(Image.alpha_composite(white, region).convert("RGB"))


def is_of_a_scanner(path: Path) -> bool:
    """Return whether a file has a scanner's format that OpenSlide knows; a plain TIFF has none."""
    return OpenSlide.detect_format(path) not in {None, "generic-tiff"}


def open_vendor(path: Path) -> VendorSlide:
    """Open a slide of a scanner.

    Raises:
        BadImageError: it cannot be read; says why.
    """
    try:
        handle = OpenSlide(path)
        _check_tiles(handle)
        width, height = handle.dimensions
        return VendorSlide(
            path, width, height, handle.level_downsamples, _microns_per_pixel(handle), handle
        )
    except OpenSlideError as error:
        raise BadImageError("damaged", f"{error}; copy the slide again") from None


def _check_tiles(handle: OpenSlide) -> None:
    """Refuse tiles that are too large: OpenSlide ends the process when it lacks memory for one."""
    for level in range(handle.level_count):
        sides = [
            handle.properties.get(f"openslide.level[{level}].tile-{side}")
            for side in ("width", "height")
        ]
        # Some formats do not state it, because their tiles have a fixed size.
        if sides[0] is not None and sides[1] is not None:
            check_tile(int(sides[0]), int(sides[1]))


def _microns_per_pixel(handle: OpenSlide) -> float | None:
    """Average both directions, if both are known."""
    try:
        both = [
            float(handle.properties[name]) for name in (PROPERTY_NAME_MPP_X, PROPERTY_NAME_MPP_Y)
        ]
    except (KeyError, ValueError):
        return None
    return credible(sum(both) / 2)
