"""Choose the file that represents a DICOM slide, in which each level is a file of its own."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from tasks.images.access.addresses import DICOM, extension_of, in_archive
from tasks.images.access.files import asked, filesystem

_READ = ["SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]
_ASIDE = frozenset({"LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER"})  # pictures that are not levels


@dataclass(frozen=True)
class DicomFile:
    """A row of a listing: its folder and series, width in pixels, and whether it is a level."""

    row: int
    series: tuple[str, str]
    width: int
    is_level: bool


def one_file_a_slide(sources: pa.Table, on_skip: Callable[[str], None]) -> pa.Table:
    """Keep only the file of the largest level of each DICOM slide in a listing.

    OpenSlide opens all levels in a folder by any one of them. A file with an unreadable header
    stays, and fails with a reason when it is opened.

    Args:
        sources: a table of `SCHEMA`.
        on_skip: called with a message on the number of omitted files.
    """
    uris = pc.coalesce(sources["source_uri"], sources["uri"]).to_pylist()
    slides: dict[tuple[str, str], list[DicomFile]] = defaultdict(list)
    for row, uri in enumerate(uris):
        if extension_of(uri) == DICOM and not in_archive(uri):
            found = asked(uri, partial(read_header, row, uri))
            if found:
                slides[found.series].append(found)
    out: set[int] = set()
    for files in slides.values():
        largest = max(files, key=lambda file: (file.is_level, file.width, -file.row))
        out.update(file.row for file in files if file is not largest)
    if not out:
        return sources
    on_skip(
        f"{len(out):,} {DICOM} files are further levels, labels and overviews of slides, and are "
        "read with the file of the largest level"
    )
    return sources.take([row for row in range(len(uris)) if row not in out])


def read_header(row: int, uri: str) -> DicomFile | None:
    """Read the slide of a file; None if the file is not local, or no DICOM slide."""
    from pydicom import dcmread  # few nights have such slides

    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        return None
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=_READ)
        series = str(header.SeriesInstanceUID)
        width = int(header.get("TotalPixelMatrixColumns") or 0)
        kinds = {str(kind).upper() for kind in header.get("ImageType") or ()}
    except Exception:  # any damaged file: the error is reported when it is opened
        return None
    return DicomFile(row, (str(Path(path).parent), series), width, not kinds & _ASIDE)
