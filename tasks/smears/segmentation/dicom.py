"""Find the file that represents a DICOM slide, each level of which is a file of its own."""

from collections import defaultdict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from tasks.images.access.addresses import DICOM, extension_of, in_archive
from tasks.images.access.files import filesystem, read_head

_READ = ["SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]
_ASIDE = frozenset({"LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER"})  # pictures that are not levels
_HEADER = 2**22  # bytes of a file that are read; the fields asked for come early
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax of a file that is packed as a whole
# The order of files: levels first, then the wider, then the earlier row, which is negative.
Rank = tuple[bool, int, int]


def one_file_a_slide(sources: pa.Table, on_skip: Callable[[str], None]) -> pa.Table:
    """Keep only the file of the largest level of each DICOM slide in a listing.

    OpenSlide opens all levels by it. A file with an unreadable header stays, and fails when opened.
    """
    uris = pc.coalesce(sources["source_uri"], sources["uri"]).to_pylist()
    slides: dict[tuple[str, str], list[Rank]] = defaultdict(list)
    for row, uri in enumerate(uris):
        is_file = extension_of(uri) == DICOM and not in_archive(uri)
        if is_file and (header := read_header(row, uri)):
            slides[header[0]].append(header[1])
    out = {-file[2] for files in slides.values() for file in files if file != max(files)}
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
