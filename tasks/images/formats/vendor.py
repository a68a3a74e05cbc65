"""Read whole slides in the formats of scanners with OpenSlide, from a local disk.

Each level of a DICOM slide is a file of its own: one of them represents the slide.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem
from openslide import PROPERTY_NAME_MPP_X, PROPERTY_NAME_MPP_Y, OpenSlide, OpenSlideError
from PIL import Image

from tasks.images import decoding
from tasks.images.access.addresses import DICOM, extension_of, in_archive
from tasks.images.access.files import filesystem, read_head
from tasks.images.formats.tiff import check_tile
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
        raise decoding.BadImageError("damaged", f"{error}; copy the slide again") from None
    white = Image.new("RGBA", region.size, WHITE)
    return np.asarray(Image.alpha_composite(white, region).convert("RGB"))


def is_of_a_scanner(path: Path) -> bool:
    """Return whether a file has a scanner's format that OpenSlide knows; a plain TIFF has none."""
    return OpenSlide.detect_format(path) not in {None, "generic-tiff"}


def open_vendor(path: Path) -> Slide:
    """Open a slide of a scanner.

    Raises:
        BadImageError: it cannot be read; says why.
    """
    try:
        handle = OpenSlide(path)
        _check_tiles(handle)
        levels, microns = handle.level_downsamples, _microns_per_pixel(handle)
        return Slide(*handle.dimensions, levels, microns, partial(_read, path, handle, levels))
    except OpenSlideError as error:
        raise decoding.BadImageError("damaged", f"{error}; copy the slide again") from None


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


_READ = ["SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]
_ASIDE = frozenset({"LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER"})  # pictures that are not levels
_HEADER = 2**22  # bytes of a file that are read; the fields asked for come early
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax of a file that is packed as a whole
# The order of files: levels first, then the wider, then the earlier row, which is negative.
Rank = tuple[bool, int, int]


def one_file_a_slide(sources: pa.Table, on_skip: Callable[[str], None]) -> pa.Table:
    """Keep only the file of the largest level of each DICOM slide in a listing.

    OpenSlide opens all levels in a folder by any one of them. A file with an unreadable header
    stays, and fails with a reason when it is opened. ``on_skip`` is called with a message on the
    number of omitted files.
    """
    uris = pc.coalesce(sources["source_uri"], sources["uri"]).to_pylist()
    slides: dict[tuple[str, str], list[Rank]] = defaultdict(list)
    for row, uri in enumerate(uris):
        is_file = extension_of(uri) == DICOM and not in_archive(uri)
        if is_file and (header := read_header(row, uri)):
            slides[header[0]].append(header[1])
    out: set[int] = set()
    for files in slides.values():
        out.update(-file[2] for file in files if file != max(files))
    if not out:
        return sources
    on_skip(
        f"{len(out):,} {DICOM} files are further levels, labels and overviews of slides, and are "
        "read with the file of the largest level"
    )
    return sources.take([row for row in range(len(uris)) if row not in out])


def read_header(row: int, uri: str) -> tuple[tuple[str, str], Rank] | None:
    """Read folder, series and rank of a file; None if it is not local, or no DICOM slide."""
    from pydicom import dcmread  # few nights have such slides

    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        return None
    try:
        head = read_head(uri, _HEADER)
        if _DEFLATED in head:  # pydicom unpacks all of it, and OpenSlide reads none
            return None
        header = dcmread(BytesIO(head), stop_before_pixels=True, specific_tags=_READ)
        series = str(header.SeriesInstanceUID)
        width = int(header.get("TotalPixelMatrixColumns") or 0)
        kinds = {str(kind).upper() for kind in header.get("ImageType") or ()}
    except Exception:  # any damaged file: the error is reported when it is opened
        return None
    return (str(Path(path).parent), series), (not kinds & _ASIDE, width, -row)
