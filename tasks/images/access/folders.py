"""List the files of a folder or of a pattern, on any fsspec filesystem."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from tasks.images.access.addresses import as_text, is_pattern, slide_folder
from tasks.images.access.files import SourceError, filesystem

# The entries used for a file on this machine's disks; the rest take a kilobyte each.
KEPT = ("name", "size", "type", "islink", "mtime")
# Names for the time of the last change in local and SFTP, S3, Azure and Google filesystems.
CHANGED = ("mtime", "LastModified", "last_modified", "updated")


class File(NamedTuple):
    """A file's path, size in bytes, and time of change, as reported by its filesystem."""

    path: str
    size: int | None
    changed: float | datetime | str | None = None


@dataclass(frozen=True)
class Listed:
    """The files of a source, an iterator in no order: there may be a million.

    ``above`` is the path of the requested folder, empty for a pattern; ``is_file`` says that there
    is one file. Folders behind links are not listed, but noted in ``linked``.
    """

    fs: Any
    above: str
    files: Iterator[File]
    linked: list[str] = field(default_factory=list)
    is_file: bool = False


def list_files(source: str) -> Listed:
    """List the files of a folder or pattern, or one file; SourceError if some cannot be listed."""
    fs, root = filesystem(source)
    if fs.isfile(root):
        return Listed(fs, "", iter([_file(fs.info(root))]), is_file=True)
    if slide_folder(root) == root and fs.isdir(root):
        return Listed(fs, "", iter([File(root, fs.du(root))]), is_file=True)
    if isinstance(fs, LocalFileSystem):
        # It skips folders that it cannot list, and calls `on_error` only for the topmost.
        fs = LocalFileSystem(skip_instance_cache=True)
        fs.walk = partial(fs.walk, on_error=_refuse_unlisted)
        fs.info = partial(_info, fs.info)
    if fs.exists(root):
        entries, above = _below(fs, root), root
    elif is_pattern(root):
        entries, above = _emptied(fs.glob(root, detail=True)), ""
    else:
        raise FileNotFoundError(root)
    linked: list[str] = []
    return Listed(fs, above, _files_among(fs, above, entries, linked), linked)


def _files_among(
    fs: Any, above: str, entries: Iterable[dict[str, Any]], linked: list[str]
) -> Iterator[File]:
    slides = Counter[str]()
    for info in entries:
        path = info["name"]
        # A link to a file is neither "file" nor "directory" to fsspec.
        if info.get("islink") and fs.isdir(path):
            linked.append(as_text(path))
        elif info.get("type") == "directory" and slide_folder(path) == path:  # of a pattern
            slides[path] = fs.du(path)
        elif info.get("type") == "file" or info.get("islink", False):
            folder = slide_folder(path, above)
            if folder is None:
                yield _file(info)
            else:
                slides[folder] += info.get("size") or 0
    for folder, size in slides.items():
        yield File(folder, size)


def _below(fs: Any, root: str) -> Iterator[dict[str, Any]]:
    if not isinstance(fs, LocalFileSystem):
        return _emptied(fs.find(root, detail=True))
    # With one folder in memory at a time.
    return (info for _, _, files in fs.walk(root, detail=True) for info in files.values())


def _emptied(entries: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Empty a dictionary of entries while yielding them, so that they are in memory only once."""
    while entries:
        yield entries.popitem()[1]


def _file(info: Mapping[str, Any]) -> File:
    changed = next((info[name] for name in CHANGED if info.get(name) is not None), None)
    return File(info["name"], info.get("size"), changed)


def _info(full: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    info = full(*args, **kwargs)
    return {name: info[name] for name in KEPT if name in info}


def _refuse_unlisted(error: Exception) -> None:
    if isinstance(error, FileNotFoundError):  # of a folder that was removed meanwhile
        return
    folder = as_text(str(getattr(error, "filename", None) or error))
    raise SourceError(
        f"{folder} cannot be listed ({getattr(error, 'strerror', None) or error}), so its images "
        "would silently be missing: make it readable, or leave it out of the source"
    ) from None
