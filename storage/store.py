"""Read and write a store: one root URL on any fsspec filesystem, and the only way to write."""

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class StoreError(Exception):
    """Something in the store is missing, damaged, or would have to be overwritten."""


class MissingError(StoreError):
    """There is no file of that name in the store."""


class AlreadyExistsError(StoreError):
    """A thing that is written once is there already."""


@dataclass(frozen=True)
class Store:
    """A store at a root URL: ``/data/store``, ``file:///data/store`` or ``s3://bucket/store``.

    Paths are given relative to the root, in parts. A write is complete or absent: no reader
    sees half a file. A store is small and picklable, so it travels to workers as it is.
    """

    url: str
    fs: Any = field(init=False, repr=False, compare=False)
    root: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fs, root = fsspec.core.url_to_fs(self.url)
        object.__setattr__(self, "fs", fs)
        object.__setattr__(self, "root", root.rstrip("/"))
        if self.is_local:
            # A relative path would mean another folder to a worker that was started elsewhere.
            object.__setattr__(self, "url", self.root)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return (Store, (self.url,))

    @property
    def is_local(self) -> bool:
        """Tell whether the store lies on this machine's filesystem."""
        return isinstance(self.fs, LocalFileSystem)

    def path(self, *parts: str) -> str:
        """Join the full path of something in the store, without the protocol."""
        return "/".join((self.root, *parts))

    def address(self, *parts: str) -> str:
        """Join the full URL of something in the store, as a person would paste it."""
        path = self.path(*parts)
        return path if self.is_local else str(self.fs.unstrip_protocol(path))

    def holds(self, url: str) -> bool:
        """Tell whether an address is that of something in this store."""
        return Store(url).root.startswith(f"{self.root}/")

    def exists(self, *parts: str) -> bool:
        """Tell whether a file or folder is there."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.path(*parts)))

    def modified(self, *parts: str) -> datetime:
        """Look up when a file was last written; FileNotFoundError where there is none."""
        self.fs.invalidate_cache()
        moment: datetime = self.fs.modified(self.path(*parts))
        return moment

    def names(self, *parts: str) -> list[str]:
        """List the sorted names in a folder, without hidden ones; none where it is absent."""
        self.fs.invalidate_cache()
        folder = self.path(*parts)
        try:
            found = {path.rstrip("/") for path in self.fs.ls(folder, detail=False)}
        except FileNotFoundError:
            return []
        # S3's web console makes a folder by an empty object that is named like it.
        names = sorted(path.rsplit("/", 1)[-1] for path in found - {folder})
        return [name for name in names if not name.startswith((".", "_"))]

    def folders(self, *parts: str, having: str) -> list[str]:
        """List the sorted names of a folder's folders that have a file of the given name."""
        return [name for name in self.names(*parts) if self.exists(*parts, name, having)]

    def read_bytes(self, *parts: str) -> bytes:
        """Read the whole content of a file; MissingError where there is none."""
        try:
            content: bytes = self.fs.cat_file(self.path(*parts))
        except FileNotFoundError:
            raise MissingError(f"{self.address(*parts)} does not exist") from None
        return content

    def open(self, *parts: str) -> Any:
        """Open a file to read pieces of it; FileNotFoundError where there is none."""
        # Another process may have written it since: a remembered size would cut it short.
        self.fs.invalidate_cache()
        # Object stores read megabytes ahead; a Parquet reader knows what it wants.
        exact = {"cache_type": "none"} if self.fs.async_impl else {}
        return self.fs.open(self.path(*parts), "rb", **exact)

    def read_json(self, *parts: str) -> Any:
        """Read a JSON file as plain data."""
        content = self.read_bytes(*parts)
        try:
            return json.loads(content)
        except ValueError as error:
            raise StoreError(f"{self.address(*parts)} is not valid JSON: {error}") from None

    def write_bytes(self, content: bytes, *parts: str, once: bool = False) -> None:
        """Write a file atomically; with ``once``, raise AlreadyExistsError if it is there."""
        with self.staged(*parts, once=once) as stage:
            stage.write_bytes(content)

    def write_json(self, data: Any, *parts: str, once: bool = False) -> None:
        """Write plain data as JSON, atomically, with the same bytes for the same data."""
        text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
        self.write_bytes((text + "\n").encode(), *parts, once=once)

    @contextmanager
    def staged(self, *parts: str, once: bool = False) -> Iterator[Path]:
        """Yield a local path to write to; its file appears in the store when the block ends well.

        Locally the file is staged in ``.staged`` at the root and renamed: beside its target it
        would break Polars, which reads every file of a folder. On an object store it is staged in
        the temporary folder and PUT, which is atomic there. When the block raises, the target is
        untouched and the stage is gone.
        """
        target = self.path(*parts)
        if self.is_local:
            folder = Path(self.path(".staged"))
            _make_folder(Path(target).parent)
            folder.mkdir(exist_ok=True)
        else:
            folder = Path(tempfile.gettempdir())
        stage = folder / f"staged-{uuid.uuid4().hex}"
        try:
            yield stage
            if self.is_local:
                _publish_local(stage, Path(target), once)
            else:
                self._publish_remote(stage, target, once)
        finally:
            stage.unlink(missing_ok=True)

    def _publish_remote(self, stage: Path, target: str, once: bool) -> None:
        if not once:
            self.fs.put_file(str(stage), target)
            return
        try:
            self.fs.pipe_file(target, stage.read_bytes(), mode="create")
        except OSError as error:
            # Not every S3 server refuses in the words by which s3fs knows a FileExistsError.
            if isinstance(error, FileExistsError) or self.fs.exists(target):
                raise AlreadyExistsError(f"{target} is there already") from None
            raise

    def remove(self, *parts: str) -> None:
        """Remove a file or a folder with all in it; nothing happens where there is none."""
        if self.exists(*parts):
            self.fs.rm(self.path(*parts), recursive=True)


def _publish_local(stage: Path, target: Path, once: bool) -> None:
    """Let a staged file appear under its name, so that a power cut cannot take it away again."""
    with stage.open("rb+") as written:
        os.fsync(written.fileno())
    if once:
        try:
            os.link(stage, target)
        except FileExistsError:
            raise AlreadyExistsError(f"{target} is there already") from None
    else:
        stage.replace(target)
    # The name is in the folder, which is a file of its own.
    _sync_folder(target.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, and sync the folders that new ones are named in."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in new:
        _sync_folder(each.parent)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def digest_of(content: bytes) -> str:
    """Compute the sha256 of some bytes, in hexadecimal."""
    return sha256(content).hexdigest()


def check_name(kind: str, name: str) -> str:
    """Return a name of a ``kind`` of thing; StoreError where it is not safe as a path component."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    if not name or len(name) > 120 or name[0] in "._" or not set(name) <= allowed:
        raise StoreError(
            f"{name!r} is no {kind} name: use 1 to 120 letters, digits, '-', '_' and '.', "
            "not beginning with '.' or '_'"
        )
    return name
