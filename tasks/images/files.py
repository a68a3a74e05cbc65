"""The bytes of an image wherever it lies: on any fsspec filesystem, or in an archive on one.

A member of an archive is read in place, as ``zip://member::file:///archive.zip``, and never
extracted to disk.
"""

import re
import stat
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

ARCHIVES = {
    ".zip": "zip",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".tar.bz2": "tar",
    ".tar.xz": "tar",
}

# Names may hold "::"; the one that divides two URLs has a URL after it.
BLOCK = 2**22  # bytes that are in memory at once

_LINK = re.compile(r"::(?=\w+://)")


class SourceError(Exception):
    """A source of images that cannot be read as one, with what to do about it."""


class ChangedError(SourceError):
    """An image is not the one that was screened."""


def filesystem(url: str) -> tuple[Any, str]:
    """The filesystem and path of a URL, whatever signs (``::``, ``%``) the name of a file has."""
    protocol, found, rest = url.partition("://")
    if not found or protocol == "file":
        return LocalFileSystem(), LocalFileSystem._strip_protocol(url)
    if "::" in protocol or _LINK.search(rest):
        fs, path = fsspec.core.url_to_fs(url)
    else:
        kind = fsspec.get_filesystem_class(protocol)
        fs, path = kind(**kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)
    # Tonight's images must be found by a process that listed the folder last night.
    fs.invalidate_cache()
    return fs, path


def read_bytes(uri: str) -> bytes:
    """The bytes of an image; an archive is opened once a process and read in place."""
    kind, _, rest = uri.partition("://")
    if kind not in {"zip", "tar"}:
        fs, path = filesystem(uri)
        return bytes(fs.cat_file(path))
    name, address = split_link(rest)
    return _archive(kind, address, stamp(address)).read(name)


def list_members(kind: str, address: str) -> Iterator[tuple[str, int]]:
    """Names and sizes in bytes of the files in an archive, in the archive's order."""
    for name, member in _archive(kind, address, stamp(address)).members.items():
        yield name, _size(member)


def split_link(rest: str) -> tuple[str, str]:
    """What is in an archive, and where the archive is, of ``inside::archive``."""
    if _LINK.search(rest):
        inside, address = _LINK.split(rest, maxsplit=1)
    else:
        inside, _, address = rest.rpartition("::")
    return inside, address


def stamp(uri: str) -> str:
    """What changes when a file, or the archive that it lies in, is replaced."""
    kind, _, rest = uri.partition("://")
    if kind in ARCHIVES.values():
        return stamp(split_link(rest)[1])
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        return str(fs.ukey(path))
    status = Path(path).stat()
    return f"{status.st_mtime_ns}-{status.st_size}"


def digest_of_file(uri: str) -> bytes:
    """The sha256 of a file, however large it is."""
    if uri.partition("://")[0] in ARCHIVES.values():
        return sha256(read_bytes(uri)).digest()
    fs, path = filesystem(uri)
    digest = sha256()
    with fs.open(path, "rb") as file:
        while piece := file.read(BLOCK):
            digest.update(piece)
    return digest.digest()


Member = zipfile.ZipInfo | tarfile.TarInfo


@dataclass(frozen=True)
class _Archive:
    """An opened archive, its members by name, and the lock of its one file position."""

    file: zipfile.ZipFile | tarfile.TarFile
    members: dict[str, Member]
    lock: threading.Lock

    def read(self, name: str) -> bytes:
        """The bytes of a member that is a plain file inside the archive."""
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(f"the archive has no member {name!r}")
        if why := _refusal(member):
            raise SourceError(f"refused: {why}")
        with self.lock:
            if isinstance(self.file, zipfile.ZipFile):
                return self.file.read(name)
            content = self.file.extractfile(member)  # type: ignore[arg-type]
            return content.read() if content else b""


def _name(member: Member) -> str:
    return member.filename if isinstance(member, zipfile.ZipInfo) else member.name


def _size(member: Member) -> int:
    return member.file_size if isinstance(member, zipfile.ZipInfo) else member.size


def _refusal(member: Member) -> str | None:
    """Why a member must not be read, or None: nothing it says may point out of the archive."""
    path = PurePosixPath(_name(member))
    if path.is_absolute() or ".." in path.parts:
        return f"the name {_name(member)!r} leads out of the archive"
    if isinstance(member, zipfile.ZipInfo):
        kind = stat.S_IFMT(member.external_attr >> 16)
        return None if kind in {0, stat.S_IFREG} else "it is a link or a device, not a file"
    return None if member.isreg() else "it is a link or a device, not a file"


@lru_cache(maxsize=8)
def _archive(kind: str, address: str, at: str) -> _Archive:
    fs, path = filesystem(address)
    # An object store would read 50 MB ahead from wherever the next image lies.
    blocks = {"block_size": 2**20, "cache_type": "blockcache"} if fs.async_impl else {}
    try:
        file = fs.open(path, "rb", **blocks)
        archive: zipfile.ZipFile | tarfile.TarFile
        if kind == "zip":
            archive = zipfile.ZipFile(file)
            members: list[Member] = [info for info in archive.infolist() if not info.is_dir()]
        else:
            archive = tarfile.open(fileobj=file)  # noqa: SIM115  (kept open for the process)
            members = [info for info in archive.getmembers() if not info.isdir()]
            # A copy that was cut between two members looks whole but for the zeros at its end.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(512) != bytes(512):
                raise EOFError("its end is missing")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise SourceError(f"{address} cannot be read as a {kind} archive: {error}") from error
    twice = [name for name, n in Counter(_name(m) for m in members).items() if n > 1]
    if twice:
        raise SourceError(f"{address} has two members called {twice[0]!r}: pack it anew")
    return _Archive(archive, {_name(member): member for member in members}, threading.Lock())
