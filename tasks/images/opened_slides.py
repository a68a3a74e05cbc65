"""Open whole slides in place, to be read by region; a process keeps the last few open."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from tasks.images.access.addresses import (
    DICOM,
    LOCAL,
    TIFF,
    VENDORS,
    ZARR,
    extension_of,
    in_archive,
)
from tasks.images.access.files import asked, filesystem, known_stamp
from tasks.images.access.patience import TimedOutError
from tasks.images.decoding import BadImageError
from tasks.images.formats.ome_zarr import open_ome_zarr
from tasks.images.formats.pieces import KeptRanges
from tasks.images.formats.tiff import is_tiled_or_large, open_tiff
from tasks.images.formats.vendor import is_of_a_scanner, open_vendor


class Slide(Protocol):
    """An open slide: a picture too large to decode at once, at one or more resolutions."""

    @property
    def width(self) -> int:
        """Return the width in pixels of level 0."""

    @property
    def height(self) -> int:
        """Return the height in pixels of level 0."""

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Return the downsample of each level along a side, in pixels of level 0; 1.0 first."""

    @property
    def microns_per_pixel(self) -> float | None:
        """Return the microns per pixel of level 0; None if not stated, or impossible."""

    def read(self, x: int, y: int, width: int, height: int, level: int = 0) -> NDArray[np.uint8]:
        """Read the pixels of a box at the resolution of a level, RGB.

        Args:
            x: left side of the box; all four are in pixels of level 0; may be negative.
            y: its upper side.
            width: of the box.
            height: of the box.
            level: to read from.

        Returns:
            Pixels (round(height / downsample), round(width / downsample), 3). Places outside the
                slide, or never scanned, are white.

        Raises:
            BadImageError: ``damaged`` or ``unreadable``.
        """


@dataclass(frozen=True)
class LimitedSlide:
    """An open slide with a time limit for each read; see `Slide`."""

    slide: Slide
    uri: str

    @property
    def width(self) -> int:
        """Return the width in pixels of level 0."""
        return self.slide.width

    @property
    def height(self) -> int:
        """Return the height in pixels of level 0."""
        return self.slide.height

    @property
    def downsamples(self) -> tuple[float, ...]:
        """Return the downsample of each level, 1.0 first."""
        return self.slide.downsamples

    @property
    def microns_per_pixel(self) -> float | None:
        """Return the microns per pixel of level 0, or None."""
        return self.slide.microns_per_pixel

    def read(self, x: int, y: int, width: int, height: int, level: int = 0) -> NDArray[np.uint8]:
        """Read a box, or raise TimedOutError; see `Slide.read`."""
        return asked(self.uri, lambda: self.slide.read(x, y, width, height, level))


def is_slide(uri: str) -> bool:
    """Return whether a file is a whole slide, by its name or, for TIFF, its header.

    A folder of OME-Zarr is a slide. A TIFF is a slide if it is tiled, has further levels in its
    first directory, or has more pixels than a photograph may have; False if it cannot be read.
    """
    extension = extension_of(uri)
    if extension in VENDORS:
        return True
    if extension == ZARR:
        return not in_archive(uri)
    if extension not in TIFF or in_archive(uri):
        return False
    return asked(uri, lambda: is_tiled_or_large(*filesystem(uri)))


def open_slide(uri: str) -> Slide:
    """Open a slide, or return the one that this process has open if its file is unchanged.

    Several threads may read it at once.

    Raises:
        BadImageError: says why it cannot be read.
        TimedOutError: the source does not answer.
    """
    if in_archive(uri):
        raise BadImageError(
            "unreadable", "a slide is read by region, which archives do not allow: unpack it"
        )
    try:
        return asked(uri, lambda: _open(uri, known_stamp(uri)))
    except (BadImageError, TimedOutError):
        raise
    # A slide must never stop its batch, whatever its filesystem raises.
    except Exception as error:
        raise BadImageError("unreadable", f"{type(error).__name__}: {error}") from None


@lru_cache(maxsize=8)
def _open(uri: str, stamp: str) -> Slide:
    return LimitedSlide(_opened(uri), uri)


def _opened(uri: str) -> Slide:
    fs, path = filesystem(uri)
    if extension_of(uri) == ZARR:
        return open_ome_zarr(fs, path)
    if isinstance(fs, LocalFileSystem):
        if is_of_a_scanner(Path(path)):
            return open_vendor(Path(path))
        if extension_of(uri) == DICOM:
            raise BadImageError("not_an_image", "no whole slide in DICOM: export the slide again")
        return open_tiff(fs, path)
    if extension_of(uri) in LOCAL:
        raise BadImageError(
            "unreadable", f"{extension_of(uri)} is read from a local disk only: copy it to one"
        )
    return open_tiff(KeptRanges(fs), path)
