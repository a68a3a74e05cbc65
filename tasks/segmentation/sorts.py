"""Recognise the kind of a file: a picture of one cell, a photograph of a field, or a whole slide.

Name and header are usually enough. A night may have hundreds of thousands of files, so the largest
are looked at first, and the rest count as cells once many in a row are: a photograph of a field has
many times the bytes of a cell. For sizes that both kinds may have, the finder counts the cells in
some pictures of each folder.
"""

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import chain, islice
from math import inf, log2
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from tasks.images import geometry, opened_slides
from tasks.images.access.addresses import (
    SLIDE_EXTENSIONS,
    TIFF,
    extension_of,
    in_archive,
    split_link,
)
from tasks.images.access.files import read_head
from tasks.images.decoding import (
    FORMATS,
    LARGEST_CELL,
    LARGEST_TRAINING_CELL,
    is_masked,
    not_a_cell,
)
from tasks.images.regions import MOST_CELL_BYTES
from tasks.segmentation.absorbance import rim
from tasks.segmentation.finding import LEAST_DIAMETER, Cell, find_cells, find_roughly
from tasks.types import Pixels

Sort = Literal["cells", "fields", "slides"]
Size = tuple[int, int]  # width and height in pixels
Glance = Sort | Size | None  # from a header: a size if the kind is still open; None: unreadable

HEAD = 2**16  # bytes that contain nearly every header
LONG_HEAD = 2**22  # bytes that contain every header but that of TIFF, which may be at the end
IN_A_ROW = 64  # files of one format that are cells, after which smaller ones are not opened
KEPT = 4096  # of the largest files, in memory together
TRIED = 8  # pictures of a group in which the finder counts cells
MOST_TRIED = 128  # pictures in which it does in all
ALIKE = 0.25  # octaves of the longer side; a telephone's pictures differ by less when cut
GOLDEN = 0.6180339887498949  # its multiples are spread evenly


def glance(uri: str) -> Glance:
    """Recognise a file by its name and header; its size if the kind is open; None if unreadable.

    The error is reported when the file is read.
    """
    try:
        if extension_of(uri) in SLIDE_EXTENSIONS and opened_slides.is_slide(uri):
            return "slides"
        most = MOST_CELL_BYTES if extension_of(uri) in TIFF else LONG_HEAD
        size = _size(read_head(uri, HEAD)) or _size(read_head(uri, most))
    except Exception:  # any error of its filesystem
        return None
    if size is None or max(size) <= LARGEST_TRAINING_CELL:
        return None if size is None else "cells"
    return "fields" if max(size) > LARGEST_CELL else size


def _size(content: bytes) -> Size | None:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.size
    except Image.DecompressionBombError:
        return LARGEST_CELL + 1, LARGEST_CELL + 1  # too large for a photograph as well
    except Exception:
        return None


class File(NamedTuple):
    """A file of a batch: its row, its URL, and its size in bytes, None if unknown."""

    row: int
    uri: str
    size: int | None


def glances(
    files: Callable[[], Iterable[File]], glance_at: Callable[[Sequence[str]], Iterable[Glance]]
) -> dict[int, Glance]:
    """Glance at files, the largest first, until `IN_A_ROW` of a format are cells.

    ``files`` goes over all files, each time it is called; ``glance_at`` glances at some URLs.
    Return the glances by row; files of all other rows are cells.
    """
    by_row: dict[int, Glance] = {}
    for kind in dict.fromkeys(extension_of(file.uri) for file in files()):
        left = _largest_first(files, kind)
        while some := list(islice(left, IN_A_ROW)):
            seen = list(glance_at([file.uri for file in some]))
            pairs = zip(some, seen, strict=True)
            by_row |= {file.row: each for file, each in pairs if each != "cells"}
            if all(each == "cells" for each in seen):
                break
    return by_row


def _largest_first(files: Callable[[], Iterable[File]], kind: str) -> Iterator[File]:
    """Yield the files of a format; those of unknown size first, and equal ones from everywhere."""
    done: tuple[float, ...] = ()
    while True:
        matches = (file for file in files() if extension_of(file.uri) == kind)
        # If sizes are unknown, from everywhere in the source, because folders may differ.
        keyed = ((-(file.size or inf), file.row * GOLDEN % 1, file.row, file) for file in matches)
        some = nsmallest(KEPT, (each for each in keyed if each[:3] > done))
        for each in some:
            yield each[3]
        if len(some) < KEPT:
            return
        done = some[-1][:3]


Group = tuple[str, int | None]  # a folder, and a logarithm of the size in it; None: small


def _group(file: File, seen: Mapping[int, Glance]) -> Group | None:
    """Find the group of similar files to which one belongs; None if its header decides."""
    size = seen.get(file.row, "cells")
    inside, archive = file.uri, ""
    if in_archive(file.uri):
        inside, archive = split_link(file.uri.partition("://")[2])
    folder = f"{archive}::{inside.rpartition('/')[0]}"
    if isinstance(size, tuple):
        return folder, round(log2(max(size)) / ALIKE)
    return (folder, None) if size == "cells" else None


def to_try(files: Callable[[], Iterable[File]], seen: Mapping[int, Glance]) -> list[File]:
    """Choose files in which to count cells: some of each folder and similar size, by frequency.

    ``seen`` has the glances by row, without those at small files.
    """
    sizes = Counter(group for file in files() if (group := _group(file, seen)) is not None)
    chosen: dict[Group, list[File]] = {}
    for group, _ in sizes.most_common(MOST_TRIED // TRIED):
        chosen[group] = []
    passed = Counter[Group]()
    for file in files():
        group = _group(file, seen)
        if group in chosen:
            if passed[group] * TRIED >= len(chosen[group]) * sizes[group]:
                chosen[group].append(file)
            passed[group] += 1
    return list(chain.from_iterable(chosen.values()))


def settle(
    files: Callable[[], Iterable[File]],
    seen: Mapping[int, Glance],
    tried: Mapping[File, int | None],
) -> dict[int, Sort | None]:
    """Decide the kind of every file that its header left open.

    Pictures of similar size in one folder come from one camera: they are fields if most of those
    tried show several cells. Groups that were not tried are what most others of their size are,
    or cells. ``seen`` is from the headers, and ``tried`` the numbers of whole cells that the finder
    counted in some files, None if it could not. All rows that are not returned are cells.
    """
    votes = Counter[Group | int | None]()
    for file, cells in tried.items():
        group = _group(file, seen)
        if group is not None and cells is not None:
            vote = 1 if cells >= SEVERAL else -1
            votes[group] += vote
            votes[group[1]] += vote
    sorts = {row: each for row, each in seen.items() if not isinstance(each, tuple)}
    if any(vote > 0 for vote in votes.values()):
        for file in files():
            group = _group(file, seen)
            if group is not None and votes[group if group in votes else group[1]] > 0:
                sorts[file.row] = "fields"
    return sorts


SEARCHED = 640  # pixels of the longer side for counting cells, which bounds memory
# The emptiest of 120 BCCD fields shows four; of 600 NIH cells, enlarged to 420 to 1,000 pixels,
# none shows more than two.
SEVERAL = 4
# Neighbours of a cell, and pieces of the rim of a pale one, are also counted as cells, so a clear
# outline that fills the middle decides. Of 345 cells of the vivax set, cut out with their
# surroundings and enlarged in the same way, 17 are refused; without this rule, 45.
FILLING = 0.8, 0.55  # diameters to look for, as shares of the shorter side
LEAST_FILLED = 0.45  # the same for a cell that fills its picture
CLEAR = 0.9  # edge of its outline
# The same for a cell in a disc on black. Of 121 masked cells of the NIH, enlarged to 421 pixels, 10
# show several pieces as clear; of photographs masked to a disc, two thirds show several cells.
CLEAREST = 0.98
OFF_CENTRE = 0.2  # distance of its middle from the picture's, as a share of the shorter side
# One picture at a time, because each takes up to 320 MB.
_COUNTING = threading.Lock()


def refuse_many_cells(picture: Image.Image) -> None:
    """Raise BadImageError if an RGB picture shows several whole cells and none that fills it."""
    with _COUNTING:
        count = whole_cells(np.asarray(picture))
    if count >= SEVERAL:
        raise not_a_cell(f"{picture.width} x {picture.height} pixels show {count} whole cells")


def whole_cells(field: Pixels) -> int:
    """Count the cells in a picture, RGB uint8 (h, w, 3), that its border does not cut.

    The count is 1 if a single cell fills the picture, whatever surrounds it. In a picture masked to
    black, which shows no background, only very clear outlines count.
    """
    field = geometry.scaled(field, min(1.0, SEARCHED / max(field.shape[:2])))
    masked = is_masked(field)
    if (masked or rim(field) is None) and _is_filled(field):
        return 1
    least = CLEAREST if masked else 0.0
    found = find_roughly(field).cells
    return sum(cell.edge >= least and not cell.touches_border for cell in found)


def _is_filled(field: Pixels) -> bool:
    """Return whether a clear outline of a red cell fills the middle of a picture."""
    side = min(field.shape[:2])
    height, width = field.shape[:2]

    def fills(cell: Cell) -> bool:
        away = float(np.hypot(*(cell.outline.mean(axis=0) - [width / 2, height / 2])))
        diameter = 2 * float(np.sqrt(cell.area / np.pi))
        is_clear = cell.kind == "red" and cell.edge >= CLEAR
        return is_clear and diameter >= LEAST_FILLED * side and away <= OFF_CENTRE * side

    sought = (max(share * side, LEAST_DIAMETER) for share in FILLING)
    return any(fills(cell) for diameter in sought for cell in find_cells(field, diameter).cells)
