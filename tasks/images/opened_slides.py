"""Open photographs and slides in place, and read the pixels of their regions."""

import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
from fsspec.implementations.local import LocalFileSystem

from tasks.images import decoding, geometry
from tasks.images.access import addresses, files
from tasks.images.decoding import BadImageError
from tasks.images.formats import ome_zarr, tiff, vendor
from tasks.images.manifest import Region
from tasks.types import Pixels

PHOTOGRAPHS = 2  # kept decoded; cells of one photograph follow each other
_DECODING = tuple(threading.Lock() for _ in range(16))  # one thread decodes a file, others wait


@lru_cache(maxsize=64)
def digest_at(source: str, _stamp: str) -> bytes:
    """Compute the sha256 of a file, read once per process and stamp."""
    return files.digest_of_file(source)


def read_region(source: str, region: Region) -> Pixels:
    """Read the pixels of a region, RGB (h, w, 3); BadImageError says why they cannot be read."""
    x, y, width, height, level = region
    picture = open_picture(source)
    levels = len(picture.downsamples)
    if level >= levels or x + width > picture.width or y + height > picture.height:
        size = f"{picture.width} x {picture.height}{f' at {levels} levels' if levels > 1 else ''}"
        raise BadImageError("damaged", f"{tuple(region)} does not lie in an image of {size}")
    return picture.read(*region)


def open_picture(source: str) -> geometry.Slide:
    """Open a slide, or a photograph as a slide of one level; BadImageError says why it fails."""
    current = files.lately_stamped(source)
    if _is_slide(source, current):
        return open_slide(source)
    with _DECODING[hash(source) % len(_DECODING)]:
        pixels = _photograph(source, current)

    def read(box: geometry.Box, level: int) -> Pixels:
        x, y, width, height = box
        return pixels[y : y + height, x : x + width]

    return geometry.Slide(pixels.shape[1], pixels.shape[0], (1.0,), None, read)


@lru_cache(maxsize=64)
def _is_slide(source: str, _stamp: str) -> bool:
    return is_slide(source)


@lru_cache(maxsize=PHOTOGRAPHS)
def _photograph(source: str, _stamp: str) -> Pixels:
    return np.asarray(decoding.decode_rgb(files.read_bytes(source), upright=False))


def is_slide(uri: str) -> bool:
    """Return whether a file is a whole slide, by its name or, for TIFF, its header.

    A folder of OME-Zarr is a slide. A TIFF is a slide if it is tiled, has further levels in its
    first directory, or has more pixels than a photograph may have; False if it cannot be read.
    """
    extension = addresses.extension_of(uri)
    if extension in addresses.VENDORS:
        return True
    if addresses.in_archive(uri) or extension not in addresses.TIFF:
        return extension == addresses.ZARR and not addresses.in_archive(uri)
    return tiff.is_tiled_or_large(*files.filesystem(uri))


def open_slide(uri: str) -> geometry.Slide:
    """Open a slide for all threads, or return the open one; BadImageError says why it fails."""
    if addresses.in_archive(uri):
        raise BadImageError(
            "unreadable", "a slide is read by region, which archives do not allow: unpack it"
        )
    try:
        return _open(uri, files.known_stamp(uri))
    # A slide must never stop its batch, whatever its filesystem raises.
    except Exception as error:
        raise decoding.failure_of(error) from None


@lru_cache(maxsize=8)
def _open(uri: str, _stamp: str) -> geometry.Slide:
    fs, path = files.filesystem(uri)
    extension = addresses.extension_of(uri)
    if extension == addresses.ZARR:
        return ome_zarr.open_ome_zarr(fs, path)
    if isinstance(fs, LocalFileSystem):
        if vendor.is_of_a_scanner(Path(path)):
            return vendor.open_vendor(Path(path))
        if extension == addresses.DICOM:
            raise BadImageError("not_an_image", "no whole slide in DICOM: export the slide again")
    elif extension in addresses.LOCAL:
        raise BadImageError(
            "unreadable", f"{extension} is read from a local disk only: copy it to one"
        )
    return tiff.open_tiff(fs, path)
