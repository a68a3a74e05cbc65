"""Read and write a store: one root URL on any fsspec filesystem, and the only way to write."""

import errno
import json
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage import disk, objects

STAGED = ".staged"  # at the root: next to its target a stage would break Polars, which reads all
FOLDERS = frozenset(
    ("answers", "batches", "detectors", "evaluations", "features", "models", "nights", "reports",
     "segmentations", "learned", "statistics", "trainings", "tunings")
)  # fmt: skip
REQUESTS = 16  # sent to an object store at once
SHOWN = 10  # names that an error lists
PIECE = 2**20  # bytes of a file that are in memory at once


class StoreError(Exception):
    """Something in the store is missing, damaged, or would have to be overwritten."""


class MissingError(StoreError):
    """There is no file of that name in the store, or no store."""


class AlreadyExistsError(StoreError):
    """A write-once file or record exists already."""


class FullError(StoreError):
    """The disk of the store is full."""


class Fence(Protocol):
    """The right to write, which may be lost; see `storage.leases`."""

    @property
    def stage(self) -> str:
        """Yield a local path for `reveal` to move or send; it is deleted afterwards."""

    def check(self) -> None:
        """Raise a StoreError that names the new holder if this run has lost the right."""


@dataclass(frozen=True)
class Store:
    """A store at a root URL: ``/data/store``, ``file:///data/store`` or ``s3://bucket/store``.

    Paths are given relative to the root, in parts. A write is complete or absent. Workers receive a
    pickled store without its ``fence``.
    """

    url: str
    fs: Any = field(init=False, repr=False, compare=False)
    root: str = field(init=False, repr=False, compare=False)
    fence: Fence | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        try:
            fs, root = fsspec.core.url_to_fs(self.url)
        except Exception as error:  # a protocol that fsspec does not know, no server, no login
            raise StoreError(
                f"{self.url} is no address that can be opened ({error}): check the address"
            ) from None
        if objects.is_conditional(fs):
            objects.name_refused(fs)
        object.__setattr__(self, "fs", fs)
        object.__setattr__(self, "root", root.rstrip("/"))
        if self.is_local:
            # A relative path would mean another folder to a worker started elsewhere.
            object.__setattr__(self, "url", self.root)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return (Store, (self.url,))

    @property
    def is_local(self) -> bool:
        """Return whether the store is on this machine's filesystem."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def is_far(self) -> bool:
        """Return whether the store is behind a server, so that requests mostly wait."""
        return bool(self.fs.async_impl)

    def path(self, *parts: str) -> str:
        """Join the full path of something in the store, without the protocol."""
        return "/".join((self.root, *parts))

    def address(self, *parts: str) -> str:
        """Join the full URL of something in the store, as a person would paste it."""
        path = self.path(*parts)
        return path if self.is_local else str(self.fs.unstrip_protocol(path))

    def holds(self, url: str) -> bool:
        """Return whether an address is inside this store."""
        return Store(url).root.startswith(f"{self.root}/")

    def exists(self, *parts: str) -> bool:
        """Return whether a file or folder exists."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.path(*parts)))

    def modified(self, *parts: str) -> datetime:
        """Look up when a file was last written; FileNotFoundError if there is none."""
        self.fs.invalidate_cache()
        moment: datetime = self.fs.modified(self.path(*parts))
        return moment

    def names(self, *parts: str) -> list[str]:
        """List the names in a folder, sorted, without hidden ones; none if it is missing."""
        self.fs.invalidate_cache()
        folder = self.path(*parts)
        try:
            paths = {path.rstrip("/") for path in self.fs.ls(folder, detail=False)}
        except FileNotFoundError:
            return []
        # S3's web console makes a folder by an empty object of the same name.
        names = sorted(path.rsplit("/", 1)[-1] for path in paths - {folder})
        return [name for name in names if not name.startswith((".", "_"))]

    def folders(self, *parts: str, having: str) -> list[str]:
        """List, sorted, the subfolders that contain a file of the given name."""
        names = self.names(*parts)
        with self.together() as pool:
            there = pool.map(lambda name: self.exists(*parts, name, having), names)
            return [name for name, is_there in zip(names, there, strict=True) if is_there]

    def read_bytes(self, *parts: str) -> bytes:
        """Read the whole content of a file; MissingError if there is none."""
        try:
            content: bytes = self.fs.cat_file(self.path(*parts), **objects.one_request(self.fs))
        except FileNotFoundError:
            raise MissingError(f"{self.address(*parts)} does not exist") from None
        return content

    def digest(self, *parts: str) -> str:
        """Compute the sha256 of a file, however large; MissingError if there is none."""
        try:
            with self.open(*parts) as file:
                return digest_of_file(file)
        except FileNotFoundError:
            raise MissingError(f"{self.address(*parts)} does not exist") from None

    def together(self) -> ThreadPoolExecutor:
        """Make a pool for calls that wait for an object store; a disk gets one call at a time."""
        return ThreadPoolExecutor(REQUESTS if self.is_far else 1)

    def open(self, *parts: str) -> Any:
        """Open a file to read pieces of it; FileNotFoundError if there is none."""
        # Another process may have changed the file: a remembered size would cut it short.
        self.fs.invalidate_cache()
        # Object stores read megabytes ahead, which a Parquet reader does not need.
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

    def fenced(self, fence: Fence) -> "Store":
        """Return the same store for a run that may lose the right to write.

        On a local disk everything goes through a folder that the next holder removes; on S3 a PUT
        is conditional on the object that was there while the right was held.
        """
        store = Store(self.url)
        object.__setattr__(store, "fence", fence)
        return store

    @contextmanager
    def staged(self, *parts: str, once: bool = False) -> Iterator[Path]:
        """Yield a local path to write to; its file appears in the store if the block ends well."""
        with self.stage() as stage:
            yield stage
            self.reveal(stage, *parts, once=once)

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """Yield a local path to write a file to, for `reveal` to move; it is deleted afterwards.

        It is in a local store, to be renamed; or in the temporary folder, to be sent by one atomic
        PUT.
        """
        with self._saying_who_took_over(), self.explaining():
            stage = self._stages() / f"staged-{uuid.uuid4().hex}"
            try:
                yield stage
            finally:
                if stage.is_dir():
                    disk.delete(stage)
                stage.unlink(missing_ok=True)

    def reveal(self, stage: Path, *parts: str, once: bool = False) -> None:
        """Move a complete staged file to its name; see `write_bytes` for ``once``."""
        target = self.path(*parts)
        try:
            if self.is_local:
                with self._saying_who_took_over():
                    disk.appear(stage, Path(target), once)
            elif self.fence:
                objects.put_fenced(self.fs, stage, target, once, self.fence.check)
            else:
                objects.put(self.fs, stage, target, once)
        except FileExistsError:
            if not once:
                raise
            if self.fence:
                self.fence.check()
            raise AlreadyExistsError(f"{target} is there already") from None

    def reveal_folder(self, stage: Path, *parts: str) -> None:
        """Replace a folder of a local store by one staged without a fence.

        Code that makes parent folders could recreate the fence's own folder.
        """
        target = Path(self.path(*parts))
        disk.sync_tree(stage)
        self.remove(*parts)
        with self._saying_who_took_over():
            disk.appear_folder(stage, self._stages() / f"staged-{uuid.uuid4().hex}", target)

    def remove(self, *parts: str) -> None:
        """Remove a file or a folder with all in it; nothing happens if there is none."""
        if not self.exists(*parts):
            return
        if self.fence and self.is_local:
            with self._saying_who_took_over():
                disk.discard(Path(self.path(*parts)), self._stages())
            return
        if self.fence:
            self.fence.check()  # an object store has no conditional removal
        self.fs.rm(self.path(*parts), recursive=True)

    def _stages(self) -> Path:
        """Return the folder for staged files; with a fence, a missing folder means a lost right."""
        if not self.is_local:
            return Path(tempfile.gettempdir())
        folder = Path(self.path(STAGED))
        if self.fence:
            return folder / self.fence.stage
        disk.make_folder(folder)
        return folder

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Raise StoreError, with a remedy, for an error in the block that bars every write."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES) and (
                error.filename is None or str(error.filename).startswith(self.root)
            ):
                raise StoreError(
                    f"{self.url} cannot be written ({error.strerror}): let this user write to it, "
                    "or give another --store"
                ) from None
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            where = self.url if self.is_local else f"{tempfile.gettempdir()}, or in {self.url}"
            raise FullError(
                f"No space left in {where}: make room (slidewatch prune lists what may go) and "
                "run the same command again"
            ) from None

    @contextmanager
    def _saying_who_took_over(self) -> Iterator[None]:
        """Raise the fence's error for one caused by the removal of its folder."""
        try:
            yield
        except OSError:
            if not self.fence or not self.is_local or self._stages().is_dir():
                raise
            self.fence.check()
            raise StoreError(
                f"{self._stages()} is gone, though nobody took over: leave {STAGED} alone, and "
                "run the same command again to resume"
            ) from None


def refuse_absent(store: Store) -> None:
    """Raise MissingError if there is no store at an address; StoreError if it cannot be read."""
    try:
        folders = FOLDERS.intersection(store.names())
    except Exception as error:  # whatever a storage client raises
        raise StoreError(
            f"{store.url} cannot be read as a store ({type(error).__name__}: {error}): check the "
            "address and the login"
        ) from None
    if not folders:
        raise MissingError(
            f"there is no store in {store.url}, which has none of the folders that slidewatch "
            "makes: check --store, SLIDEWATCH_STORE and slidewatch.toml"
        )


def refuse_foreign(store: Store) -> None:
    """Raise StoreError if a folder has other things in it, and nothing of a store."""
    names = [name for name in store.names() if name != "lost+found"]  # of a new disk
    if names and not FOLDERS.intersection(names):
        raise StoreError(f"{store.url} is no store, and has {names[0]}: give a new folder")


def which(name: str, have: Sequence[str]) -> str:
    """Return text that suggests which of some names is meant, or lists the last of them.

    >>> which("kampla", ["kampala", "lima"]), which("x", ["kampala", "lima"])
    ('did you mean kampala?', 'there are: kampala, lima')
    """
    close = get_close_matches(name, have, n=1)
    if close:
        return f"did you mean {close[0]}?"
    shown = ", ".join(have[-SHOWN:]) or "none"
    return f"there are: {f'{len(have) - SHOWN:,} more, ' * (len(have) > SHOWN)}{shown}"


def digest_of(content: bytes) -> str:
    """Compute the sha256 of some bytes, in hexadecimal."""
    return sha256(content).hexdigest()


def digest_of_file(file: BinaryIO) -> str:
    """Compute the sha256 of an open file in pieces, in hexadecimal."""
    total = sha256()
    while piece := file.read(PIECE):
        total.update(piece)
    return total.hexdigest()


def check_name(kind: str, name: str) -> str:
    """Return the name of a ``kind`` of thing; StoreError if it is unsafe as a path component."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    if not name or len(name) > 120 or name[0] in "._" or not set(name) <= allowed:
        raise StoreError(
            f"{name!r} is no {kind} name: use 1 to 120 letters, digits, '-', '_' and '.', "
            "not beginning with '.' or '_'"
        )
    return name
