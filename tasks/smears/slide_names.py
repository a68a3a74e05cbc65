"""Name the slides that photographs are fields of, by their files and folders."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from tasks.images.access.addresses import in_archive, path_of


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
    paths = [_path_below(uri, root) for uri in uris]
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


def _path_below(uri: str, root: str) -> PurePosixPath:
    """Find the path of a file below the folder of all of them, or within its archive."""
    path = path_of(uri)
    if not in_archive(uri):
        path = path.removeprefix(root.rstrip("/"))
    return PurePosixPath(path.lstrip("/"))
