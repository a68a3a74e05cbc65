"""Tell the sort of a file: a picture of one cell, a photograph of a field, or a whole slide.

Name and header tell most of it. A night may have hundreds of thousands of files, so the largest are
looked at first, and the rest are taken for cells once many in a row are: a photograph of a field
has many times the bytes of a cell. Pictures of a size that both may have are told apart by the
cells that the finder sees in some of them.
"""

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import inf
from typing import Literal, get_args

from PIL import Image

from tasks.images.access.addresses import SLIDE_EXTENSIONS, extension_of
from tasks.images.access.files import read_bytes, read_head
from tasks.images.decoding import FORMATS, LARGEST_CELL, LARGEST_TRAINING_CELL
from tasks.images.slides import is_slide
from tasks.segmentation.many_cells import SEVERAL

Sort = Literal["cells", "fields", "slides"]
SORTS: tuple[Sort, ...] = get_args(Sort)
Size = tuple[int, int]  # width and height in pixels
Glance = Sort | Size | None  # what a header tells: a size where that may be either; None: nothing

HEAD = 2**16  # bytes in which nearly every header lies
IN_A_ROW = 64  # files of one format that are cells, after which smaller ones are not looked at
TRIED = 8  # pictures of one size in which the finder counts cells
MOST_TRIED = 128  # pictures in which it does in all; others are checked when they are read
GOLDEN = 0.6180339887498949  # whose multiples are spread evenly


def glance(uri: str) -> Glance:
    """Tell the sort of a file by its name and header; its size where that leaves two; None if bad.

    Whoever reads a bad file says what is wrong with it.
    """
    try:
        if extension_of(uri) in SLIDE_EXTENSIONS and is_slide(uri):
            return "slides"
        size = _size(read_head(uri, HEAD)) or _size(read_bytes(uri))
    except Exception:  # whatever its filesystem raises
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


def glances(
    uris: Sequence[str],
    sizes: Sequence[int | None],
    look: Callable[[Sequence[str]], Iterable[Glance]],
) -> list[Glance]:
    """Glance at files, the largest first, until `IN_A_ROW` of a format are cells.

    Args:
        uris: of the files (n,).
        sizes: of the files in bytes; None where it is not known.
        look: glances at some of them.

    Returns:
        What is known of each file (n,); smaller ones than were looked at are cells.
    """
    found: list[Glance] = ["cells"] * len(uris)
    formats = defaultdict[str, list[int]](list)
    for row, uri in enumerate(uris):
        formats[extension_of(uri)].append(row)
    for rows in formats.values():
        # Where sizes are unknown, from everywhere in the source: its folders may differ.
        rows.sort(key=lambda row: (-(sizes[row] or inf), row * GOLDEN % 1))
        left = iter(rows)
        while some := list(islice(left, IN_A_ROW)):
            seen = list(look([uris[row] for row in some]))
            for row, each in zip(some, seen, strict=True):
                found[row] = each
            if all(each == "cells" for each in seen):
                break
    return found


def to_try(seen: Sequence[Glance]) -> list[int]:
    """Choose files (k,) in which cells are counted: some of each size, commonest sizes first."""
    of_size = _by_size(seen)
    chosen: list[int] = []
    for rows in sorted(of_size.values(), key=len, reverse=True):
        step = max(1, len(rows) / TRIED)
        chosen += [rows[int(n * step)] for n in range(min(TRIED, len(rows)))]
    return chosen[:MOST_TRIED]


def settle(seen: Sequence[Glance], tried: dict[int, int | None]) -> list[Sort | None]:
    """Settle the sort of every file (n,) whose header has left it open.

    Pictures of one size are of one camera: they are fields if half of those tried show several
    cells. Of sizes that were not tried they are cells, and are checked again when they are read.

    Args:
        seen: what the headers tell.
        tried: whole cells that the finder counted in some files; None where it could not.
    """
    votes = defaultdict[Size, Counter[bool]](Counter)
    for row, cells in tried.items():
        size = seen[row]
        if isinstance(size, tuple) and cells is not None:
            votes[size][cells >= SEVERAL] += 1
    fields = {size for size, vote in votes.items() if vote[True] >= max(1, vote[False])}
    return [
        ("fields" if each in fields else "cells") if isinstance(each, tuple) else each
        for each in seen
    ]


def _by_size(seen: Sequence[Glance]) -> dict[Size, list[int]]:
    found = defaultdict[Size, list[int]](list)
    for row, each in enumerate(seen):
        if isinstance(each, tuple):
            found[each].append(row)
    return found
