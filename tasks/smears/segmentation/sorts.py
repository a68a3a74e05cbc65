"""Recognise the kind of a file: a picture of one cell, a photograph of a field, or a whole slide.

Name and header are usually enough. A night may have hundreds of thousands of files, so the largest
are looked at first, and the rest count as cells once many in a row are: a photograph of a field has
many times the bytes of a cell. For sizes that both kinds may have, the finder counts the cells in
some pictures of each folder.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import chain, islice
from math import inf, log2
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from PIL import Image

from tasks.images import opened_slides
from tasks.images.access.addresses import (
    SLIDE_EXTENSIONS,
    TIFF,
    extension_of,
    in_archive,
    path_of,
    split_link,
)
from tasks.images.access.files import read_head
from tasks.images.decoding import LARGEST_CELL, LARGEST_TRAINING_CELL, opened
from tasks.images.regions import MOST_CELL_BYTES
from tasks.smears.segmentation.whole_cells import SEVERAL

Sort = Literal["cells", "fields", "slides"]
Size = tuple[int, int]  # width and height in pixels
Glance = Sort | Size | None  # from a header: a size if the kind is still open; None: unreadable
Group = tuple[str, int | None]  # a folder, and a logarithm of the size in it; None: small

HEAD = 2**16  # bytes that contain nearly every header
LONG_HEAD = 2**22  # bytes that contain every header but that of TIFF, which may be at the end
IN_A_ROW = 64  # files of one format that are cells, after which smaller ones are not opened
KEPT = 4096  # of the largest files, in memory together
TRIED = 8  # pictures of a group in which the finder counts cells
MOST_TRIED = 128  # pictures in which it does in all
# Votes of a picture with several cells, of one without, and of all groups of the same size. Of 60
# photographs around a white cell 8 show fewer; of 345 cells with surroundings 17 show more.
FOR, AGAINST, OTHERS = 6 * MOST_TRIED, -4 * MOST_TRIED, 5 * MOST_TRIED
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
        with opened(content) as image:
            return image.size
    except Image.DecompressionBombError:
        return LARGEST_CELL + 1, LARGEST_CELL + 1  # too large for a photograph as well
    except Exception:
        return None


class SortedFile(NamedTuple):
    """A file of a batch: its row, its URL, and its size in bytes, None if unknown."""

    row: int
    uri: str
    size: int | None


def glances(
    files: Callable[[], Iterable[SortedFile]],
    glance_at: Callable[[Sequence[str]], Iterable[Glance]],
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


def _largest_first(files: Callable[[], Iterable[SortedFile]], kind: str) -> Iterator[SortedFile]:
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


def _group(file: SortedFile, seen: Mapping[int, Glance]) -> Group | None:
    """Find the group of similar files to which one belongs; None if its header decides."""
    size = seen.get(file.row, "cells")
    inside, archive = file.uri, ""
    if in_archive(file.uri):
        inside, archive = split_link(file.uri.partition("://")[2])
    folder = f"{archive}::{inside.rpartition('/')[0]}"
    if isinstance(size, tuple):
        return folder, round(log2(max(size)) / ALIKE)
    return (folder, None) if size == "cells" else None


def to_try(
    files: Callable[[], Iterable[SortedFile]], seen: Mapping[int, Glance]
) -> list[SortedFile]:
    """Choose files in which to count cells: some of each folder and similar size, by frequency.

    ``seen`` has the glances by row, without those at small files.
    """
    sizes = Counter(group for file in files() if (group := _group(file, seen)) is not None)
    chosen = {group: list[SortedFile]() for group, _ in sizes.most_common(MOST_TRIED // TRIED)}
    passed = Counter[Group]()
    for file in files():
        group = _group(file, seen)
        if group in chosen:
            if passed[group] * TRIED >= len(chosen[group]) * sizes[group]:
                chosen[group].append(file)
            passed[group] += 1
    return list(chain.from_iterable(chosen.values()))


def settle(
    files: Callable[[], Iterable[SortedFile]],
    seen: Mapping[int, Glance],
    tried: Mapping[SortedFile, int | None],
) -> dict[int, Sort | None]:
    """Decide the kind of every file that its header left open.

    Pictures of similar size in one folder come from one camera: they are fields if those tried show
    several cells, or if they are large and none shows a cell. All other folders' pictures of their
    size count less than one picture that shows several. ``seen`` is from the headers, and ``tried``
    the numbers of whole cells that the finder counted in some files, None if it could not. All rows
    that are not returned are cells.
    """
    votes = Counter[Group | int | None]()
    for file, cells in tried.items():
        group = _group(file, seen)
        if group is not None and cells is not None:
            vote = FOR if cells >= SEVERAL else AGAINST if group[1] else -FOR
            if not cells and group[1] is not None:  # decides only where nothing shows cells
                vote = 1
            votes[group] += vote
            votes[group[1]] += vote
    sorts = {row: each for row, each in seen.items() if not isinstance(each, tuple)}
    if any(vote > 0 for vote in votes.values()):
        for file in files():
            group = _group(file, seen)
            if group is not None:
                others = max(-OTHERS, min(votes[group[1]] - votes[group], OTHERS))
                if votes[group] + others > 0:
                    sorts[file.row] = "fields"
    return sorts


def names_of_slides(uris: Sequence[str], root: str, by: str, alone: Sequence[bool]) -> list[str]:
    """Name the slide of each of several files.

    ``root`` is the path of the folder of all of them, without protocol. By ``folder``, photographs
    in a folder below it are fields of one slide, named after the folder; those that lie in no such
    folder, and by ``file`` all, are each a slide. A file that is ``alone``, as a scanner's is,
    always is. Names that differ only in their extension keep it.

    >>> names_of_slides(["/night/s1/3.jpg", "/night/s1/4.jpg"], "/night", "folder", [False, False])
    ['s1', 's1']
    >>> names_of_slides(["/night/1.jpg", "/night/1.svs"], "/night", "file", [False, True])
    ['1.jpg', '1.svs']
    """
    within = [
        path_of(uri) if in_archive(uri) else path_of(uri).removeprefix(root.rstrip("/"))
        for uri in uris
    ]
    paths = [PurePosixPath(path.lstrip("/")) for path in within]
    files = [str(path.with_suffix("")) for path in paths]
    shared = [
        by == "folder" and not one and bool(path.parent.name)
        for path, one in zip(paths, alone, strict=True)
    ]
    times = Counter(
        name for name, with_others in zip(files, shared, strict=True) if not with_others
    )
    return [
        str(path.parent) if with_others else str(path) if times[name] > 1 else name
        for path, name, with_others in zip(paths, files, shared, strict=True)
    ]
