"""Open a photograph or a slide, and read the pixels of its regions."""

import threading
from functools import lru_cache

import numpy as np

from tasks.images import decoding, geometry, opened_slides
from tasks.images.access.files import digest_of_file, lately_stamped, read_bytes
from tasks.images.manifest import Region
from tasks.types import Pixels

PHOTOGRAPHS = 2  # kept decoded; cells of one photograph follow each other
_DECODING = threading.Lock()  # one thread decodes a photograph, and the others wait for it


@lru_cache(maxsize=64)
def digest_at(source: str, _stamp: str) -> bytes:
    """Compute the sha256 of a file, read once per process and stamp."""
    return digest_of_file(source)


def read_region(source: str, region: Region) -> Pixels:
    """Read the pixels of a region, RGB (h, w, 3); BadImageError says why they cannot be read."""
    x, y, width, height, level = region
    picture = open_picture(source)
    levels = len(picture.downsamples)
    if level >= levels or x + width > picture.width or y + height > picture.height:
        size = f"{picture.width} x {picture.height}{f' at {levels} levels' if levels > 1 else ''}"
        raise decoding.BadImageError(
            "damaged", f"{tuple(region)} does not lie in an image of {size}"
        )
    return picture.read(*region)


def open_picture(source: str) -> geometry.Slide:
    """Open a slide, or a photograph as a slide of one level; BadImageError says why it fails."""
    current = lately_stamped(source)
    if _is_slide(source, current):
        return opened_slides.open_slide(source)
    with _DECODING:
        pixels = _photograph(source, current)

    def read(box: geometry.Box, level: int) -> Pixels:
        x, y, width, height = box
        return pixels[y : y + height, x : x + width]

    return geometry.Slide(pixels.shape[1], pixels.shape[0], (1.0,), None, read)


@lru_cache(maxsize=64)
def _is_slide(source: str, _stamp: str) -> bool:
    return opened_slides.is_slide(source)


@lru_cache(maxsize=PHOTOGRAPHS)
def _photograph(source: str, _stamp: str) -> Pixels:
    return np.asarray(decoding.decode_rgb(read_bytes(source), upright=False))
