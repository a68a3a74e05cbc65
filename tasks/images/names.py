"""Parse patient, slide and field of view from file names."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from tasks.images.access.addresses import in_archive, path_of


def name_of_slide(uri: str, root: str, by: str) -> str:
    """Return the name of a photograph's or slide's slide, from its file or its folder.

    >>> name_of_slide("file:///night/s1/3.jpg", "/night", "file")
    's1/3'
    >>> name_of_slide("file:///night/s1/3.jpg", "/night", "folder")
    's1'

    Args:
        uri: of the photograph or slide.
        root: path of the folder of all of them, without protocol.
        by: ``file`` or ``folder``, whichever is one slide.
    """
    path = _path_below(uri, root)
    return str(path.parent if by == "folder" and path.parent.name else path.with_suffix(""))


def names_of_slides(uris: Sequence[str], root: str, by: str) -> list[str]:
    """Return the slides of several files; names that differ only in their extension keep it.

    >>> names_of_slides(["file:///night/1.jpg", "file:///night/1.svs"], "/night", "file")
    ['1.jpg', '1.svs']
    """
    names = [name_of_slide(uri, root, by) for uri in uris]
    times = Counter(names)
    return [
        str(_path_below(uri, root)) if by == "file" and times[name] > 1 else name
        for name, uri in zip(names, uris, strict=True)
    ]


def _path_below(uri: str, root: str) -> PurePosixPath:
    """Find the path of a file below the folder of all of them, or within its archive."""
    path = path_of(uri)
    if not in_archive(uri):
        path = path.removeprefix(root.rstrip("/"))
    return PurePosixPath(path.lstrip("/"))


# NIH names: C33P1thinF_IMG_20150619_114756a_cell_179.png is patient, field of view, cell.
_NIH = re.compile(
    r"^(?P<patient>.+?)_?thin.*?(?P<field>IMG_(?P<time>\d{8}_\d{6})\w*?)_cell_\d+", re.IGNORECASE
)


@dataclass(frozen=True)
class Name:
    """The data in a file's name; None for missing parts."""

    patient_id: str | None = None
    slide_id: str | None = None
    acquired_at: datetime | None = None


def parse_name(name: str) -> Name:
    """Parse patient, field of view (the slide id) and time from an NIH file name.

    >>> parse_name("C33P1thinF_IMG_20150619_114756a_cell_179.png").patient_id
    'C33P1'
    """
    found = _NIH.match(name)
    if found is None:
        return Name()
    patient = found["patient"]
    try:
        acquired_at = datetime.fromisoformat(found["time"].replace("_", "T"))
    except ValueError:
        acquired_at = None
    return Name(patient, f"{patient}_{found['field']}", acquired_at)
