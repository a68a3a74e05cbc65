"""Open whole slides in place, to be read by region; a process keeps the last few open.

It also keeps recently read pieces of a remote slide, because consecutive cells are in the same
tiles.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from tasks.images import geometry
from tasks.images.access import addresses, files, patience
from tasks.images.decoding import BadImageError
from tasks.images.formats import ome_zarr, tiff, vendor


def is_slide(uri: str) -> bool:
    """Return whether a file is a whole slide, by its name or, for TIFF, its header.

    A folder of OME-Zarr is a slide. A TIFF is a slide if it is tiled, has further levels in its
    first directory, or has more pixels than a photograph may have; False if it cannot be read.
    """
    extension = addresses.extension_of(uri)
    if extension in addresses.VENDORS:
        return True
    if extension == addresses.ZARR:
        return not addresses.in_archive(uri)
    if extension not in addresses.TIFF or addresses.in_archive(uri):
        return False
    return files.asked(uri, lambda: tiff.is_tiled_or_large(*files.filesystem(uri)))


def open_slide(uri: str) -> geometry.Slide:
    """Open a slide, or return the one that this process has open if its file is unchanged.

    Several threads may read it at once.

    Raises:
        BadImageError: says why it cannot be read.
        TimedOutError: the source does not answer.
    """
    if addresses.in_archive(uri):
        raise BadImageError(
            "unreadable", "a slide is read by region, which archives do not allow: unpack it"
        )
    try:
        return files.asked(uri, lambda: _open(uri, files.known_stamp(uri)))
    except (BadImageError, patience.TimedOutError):
        raise
    # A slide must never stop its batch, whatever its filesystem raises.
    except Exception as error:
        raise BadImageError("unreadable", f"{type(error).__name__}: {error}") from None


@lru_cache(maxsize=8)
def _open(uri: str, stamp: str) -> geometry.Slide:
    slide = _opened(uri)
    read = slide.read_box
    return replace(slide, read_box=lambda *box: files.asked(uri, partial(read, *box)))


def _opened(uri: str) -> geometry.Slide:
    fs, path = files.filesystem(uri)
    if addresses.extension_of(uri) == addresses.ZARR:
        return ome_zarr.open_ome_zarr(fs, path)
    if isinstance(fs, LocalFileSystem):
        if vendor.is_of_a_scanner(Path(path)):
            return vendor.open_vendor(Path(path))
        if addresses.extension_of(uri) == addresses.DICOM:
            raise BadImageError("not_an_image", "no whole slide in DICOM: export the slide again")
        return tiff.open_tiff(fs, path)
    if addresses.extension_of(uri) in addresses.LOCAL:
        raise BadImageError(
            "unreadable",
            f"{addresses.extension_of(uri)} is read from a local disk only: copy it to one",
        )
    return tiff.open_tiff(KeptRanges(fs), path)


MOST_KEPT = 2**24  # bytes of a slide's tiles as stored in its file

Piece = tuple[str, int, int]  # a path, and bytes from and to


class KeptRanges:
    """A filesystem that keeps recently read pieces of files, which must not change.

    A piece that several threads request is fetched once.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._kept: OrderedDict[Piece, Future[bytes | Exception]] = OrderedDict()
        self._size = 0

    def open(self, path: str, *options: Any, **named: Any) -> Any:
        """Open a file of the filesystem."""
        return self._fs.open(path, *options, **named)

    def cat_ranges(
        self, paths: Sequence[str], starts: Sequence[int], ends: Sequence[int]
    ) -> list[bytes | Exception]:
        """Read pieces of files, missing ones in one request; errors are returned in their place."""
        pieces: list[Piece] = list(zip(paths, starts, ends, strict=True))
        with self._lock:
            missing = [piece for piece in dict.fromkeys(pieces) if piece not in self._kept]
            for piece in missing:
                self._kept[piece] = Future()
            answers = {piece: self._kept[piece] for piece in pieces}
            for piece in answers:
                self._kept.move_to_end(piece)
        if missing:
            self._fetch(missing, answers)
        return [answers[piece].result() for piece in pieces]

    def _fetch(
        self, missing: list[Piece], answers: dict[Piece, "Future[bytes | Exception]"]
    ) -> None:
        try:
            contents = self._fs.cat_ranges(*(list(each) for each in zip(*missing, strict=True)))
        except BaseException as error:
            with self._lock:
                for piece in missing:
                    del self._kept[piece]
            for piece in missing:
                answers[piece].set_exception(error)
            raise
        for piece, content in zip(missing, contents, strict=True):
            answers[piece].set_result(content)
        with self._lock:
            for piece, content in zip(missing, contents, strict=True):
                if isinstance(content, Exception):  # the next request tries again
                    del self._kept[piece]
                else:
                    self._size += len(content)
            self._forget()

    def _forget(self) -> None:
        """Drop the least recently used pieces, but none that is being fetched."""
        for piece in list(self._kept):
            if self._size <= MOST_KEPT:
                return
            if self._kept[piece].done():
                content = self._kept.pop(piece).result()
                self._size -= len(content) if isinstance(content, bytes) else 0
