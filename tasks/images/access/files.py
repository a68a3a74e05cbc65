"""Read the bytes of an image on any fsspec filesystem, or in an archive on one.

A member of an archive is read in place, as ``zip://member::file:///archive.zip``, and never
extracted to disk.
"""

import errno
import os
import stat
import tarfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest, sha256
from math import inf
from pathlib import Path
from typing import Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tasks.images.access.addresses import as_text, file_of, in_archive, slide_folder, split_link

MOST_NAME = 2**20  # bytes of the name of a member, with all else that a tar archive says of it
MOST_BYTES = 2**28  # of a file in memory: more than any photograph of as many pixels as are decoded
# A request that an object store does not answer is repeated, and then given up.
S3_CLIENT = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "retries": {"max_attempts": 2},
    "max_pool_connections": 32,
}
ASSUMED = 10.0  # seconds for which a process assumes that a source is unchanged
SOURCES = 64  # whose stamps are kept for this time
# For a remote archive: one block is read while the images of the previous one are decoded.
AHEAD = {"block_size": 2**20, "cache_type": "background", "cache_options": {"maxblocks": 16}}
# The types of headers that name the next member, or say more of it.
_LONG = frozenset((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
                   tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK))  # fmt: skip
_CONNECTING = threading.Lock()
_CLIENTS: dict[tuple[Any, ...], Any] = {}  # by process, kind and options
_LATELY: dict[str, tuple[float, str]] = {}  # times and stamps of sources

Member = zipfile.ZipInfo | tarfile.TarInfo


class SourceError(Exception):
    """A source of images cannot be read as one; the message says what to do about it."""


class TooLargeError(SourceError):
    """A file has more bytes than are read of it; it was not read, or unpacked, beyond them."""


class ChangedError(SourceError):
    """An image is not the one that was screened."""


def filesystem(url: str) -> tuple[Any, str]:
    """Return the filesystem and path of a URL, even if the file's name has ``::`` or ``%``."""
    protocol, separator, _ = url.partition("://")
    if not separator or protocol == "file":
        return LocalFileSystem(), LocalFileSystem._strip_protocol(url)
    if "::" in protocol:
        fs, path = fsspec.core.url_to_fs(url)
    else:
        kind = fsspec.get_filesystem_class(protocol)
        options = kind._get_kwargs_from_urls(url)
        if protocol in {"s3", "s3a"}:
            settings = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            # A copy, because the client changes its options, and would be created again each time.
            options["config_kwargs"] = deepcopy(S3_CLIENT | settings)
            options["max_concurrency"] = 1  # otherwise it requests the size of each image first
        fs, path = _connected(kind, options), kind._strip_protocol(url)
    # Tonight's images must be found by a process that listed the folder last night.
    fs.invalidate_cache()
    return fs, path


def _connected(kind: Any, options: dict[str, Any]) -> Any:
    # fsspec would make one for each thread, which takes longer than reading a hundred images.
    if not kind.async_impl:
        return kind(**options)
    key = (os.getpid(), kind, repr(sorted(options.items())))
    with _CONNECTING:
        if key not in _CLIENTS:
            _CLIENTS[key] = kind(**options)
        return _CLIENTS[key]


def is_far(uri: str) -> bool:
    """Return whether a file is behind a server, so that a read mostly waits."""
    return bool(filesystem(file_of(uri))[0].async_impl)


def read_bytes(uri: str) -> bytes:
    """Read the bytes of an image; TooLargeError if they are more than `MOST_BYTES`."""
    content = read_head(uri, MOST_BYTES + 1)
    _refuse_large(len(content))
    return content


def _refuse_large(size: int) -> None:
    if size > MOST_BYTES:
        raise TooLargeError(f"it has more than {MOST_BYTES:,} bytes, the most that are read")


def read_head(uri: str, length: int) -> bytes:
    """Read the first bytes; of more than `MOST_BYTES` none if the file says that it has as many."""
    if in_archive(uri):
        kind, _, rest = uri.partition("://")
        name, address = split_link(rest)
        return _archive(kind, address, known_stamp(address)).read(name, length)
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return _read_local(path, length)
    try:
        return bytes(fs.cat_file(path, start=0, end=length))
    except OSError as error:
        # S3 has no first byte of an empty object.
        if error.errno != errno.EINVAL or fs.info(path)["size"] != 0:
            raise
        return b""


def list_members(kind: str, address: str) -> Iterator[tuple[str, int]]:
    """List names and sizes in bytes of the files in an archive, in the archive's order."""
    members = _archive(kind, address, _stamp_anew(address)).members
    return ((name, _size(member)) for name, member in members.items())


def lately_stamped(uri: str) -> str:
    """Return the stamp of a file; it may be `ASSUMED` seconds old."""
    stamped, mark = _LATELY.get(uri, (-inf, ""))
    return mark if time.monotonic() - stamped < ASSUMED else _stamp_anew(uri)


def _stamp_anew(uri: str) -> str:
    mark = stamp(uri)
    if len(_LATELY) >= SOURCES:
        _LATELY.clear()
    _LATELY[uri] = time.monotonic(), mark
    return mark


def known_stamp(uri: str) -> str:
    """Return the stamp of a file; that of a remote file may be `ASSUMED` seconds old."""
    return lately_stamped(uri) if is_far(uri) else stamp(uri)


def stamp(uri: str) -> str:
    """Return a text that changes when a file, or its archive, is replaced."""
    if in_archive(uri):
        return stamp(file_of(uri))
    path = _local_file(uri)
    if path is not None:
        status = os.stat(path)  # noqa: PTH116  (asked of an archive for each of its images)
        _refuse_devices(path, status)
        return f"{status.st_mtime_ns}-{status.st_size}"
    fs, path = filesystem(uri)
    if slide_folder(path) == path:
        kept = {n: (i.get("size"), i.get("mtime"), i.get("ETag")) for n, i in _files_of(fs, path)}
        return sha256(repr(kept).encode()).hexdigest()
    return str(fs.ukey(path))


@lru_cache(maxsize=SOURCES)
def _local_file(uri: str) -> str | None:
    fs, path = filesystem(uri)
    return path if isinstance(fs, LocalFileSystem) and slide_folder(path) != path else None


def digest_of_file(uri: str) -> bytes:
    """Compute the sha256 of a file, or of the names and files in a slide's folder, of any size."""
    if in_archive(uri):
        return sha256(read_bytes(uri)).digest()
    fs, path = filesystem(uri)
    if slide_folder(path) != path:
        return _digest_of_content(fs, path)
    digest = sha256()
    for name, _ in _files_of(fs, path):
        digest.update(as_text(name.removeprefix(path)).encode() + b"\0")
        digest.update(_digest_of_content(fs, name))
    return digest.digest()


def _digest_of_content(fs: Any, path: str) -> bytes:
    if isinstance(fs, LocalFileSystem):
        _refuse_devices(path, Path(path).stat())
    with fs.open(path, "rb") as file:
        return file_digest(file, sha256).digest()


def _files_of(fs: Any, folder: str) -> list[tuple[str, dict[str, Any]]]:
    files = sorted(fs.find(folder, detail=True).items())
    if not files:
        raise FileNotFoundError(folder)
    return files


def _read_local(path: str, length: int) -> bytes:
    """Read the first bytes of a file on this machine; a pipe without a writer does not block."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _refuse_devices(path, status)
        if length > MOST_BYTES:
            _refuse_large(status.st_size)
        return file.read(length)


def refuse_larger(uri: str, most: int) -> None:
    """Raise SourceError if a file is none, or has more bytes than are read of it."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        _refuse_devices(path, Path(path).stat())
    size = fs.size(path) or 0
    if size > most:
        raise TooLargeError(f"{uri} has {size:,} bytes, more than the {most:,} that are read")


def _refuse_devices(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"refused: {path} is a folder, a pipe or a device, and not a file")


@dataclass(frozen=True)
class _Archive:
    """An open archive, its members by name, and the lock of its single file position."""

    file: zipfile.ZipFile | tarfile.TarFile
    members: dict[str, Member]
    lock: threading.Lock

    def read(self, name: str, length: int) -> bytes:
        """Read the first bytes of a member that is a plain file inside the archive."""
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(f"the archive has no member {name!r}")
        if why := _refusal(member):
            raise SourceError(f"refused: {why}")
        if length > MOST_BYTES:
            _refuse_large(_size(member))
        with self.lock:
            if isinstance(self.file, zipfile.ZipFile):
                with self.file.open(name) as packed:
                    return packed.read(length)
            content = self.file.extractfile(member)  # type: ignore[arg-type]
            return content.read(length) if content else b""


def _name(member: Member) -> str:
    return member.filename if isinstance(member, zipfile.ZipInfo) else member.name


def _size(member: Member) -> int:
    return member.file_size if isinstance(member, zipfile.ZipInfo) else member.size


def _refusal(member: Member) -> str | None:
    name = _name(member)
    if name.startswith("/") or ".." in name.split("/"):
        return f"the name {name!r} leads out of the archive"
    if isinstance(member, zipfile.ZipInfo):
        is_file = stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG}
    else:
        is_file = member.isreg()
    return None if is_file else "it is a link or a device, not a file"


class _Header(tarfile.TarInfo):
    """A header of a tar archive, whose long name tarfile would otherwise read whatever its size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _LONG and header.size > MOST_NAME:
            raise SourceError(f"a name of {header.size:,} bytes")
        return header


@lru_cache(maxsize=8)
def _archive(kind: str, address: str, at: str) -> _Archive:
    fs, path = filesystem(address)
    # An object store would read 50 MB ahead from the next image on.
    blocks = AHEAD if fs.async_impl else {}
    try:
        file = fs.open(path, "rb", **blocks)
        archive: zipfile.ZipFile | tarfile.TarFile
        if kind == "zip":
            archive = zipfile.ZipFile(file)
            members: list[Member] = [info for info in archive.infolist() if not info.is_dir()]
        else:
            archive = tarfile.open(fileobj=file, tarinfo=_Header)  # noqa: SIM115  (kept open)
            members = [info for info in archive.getmembers() if not info.isdir()]
            # A copy that was cut between two members lacks only the zeros at its end.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(512) != bytes(512):
                raise EOFError("its end is missing")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise SourceError(f"{address} cannot be read as a {kind} archive: {error}") from error
    twice = [name for name, n in Counter(_name(m) for m in members).items() if n > 1]
    if twice:
        raise SourceError(f"{address} has two members called {twice[0]!r}: pack it again")
    return _Archive(archive, {_name(member): member for member in members}, threading.Lock())
