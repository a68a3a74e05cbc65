"""Addresses of images: what lies in an archive, what a name's extension says, what may be read.

A file has a URL. A member of an archive has ``zip://member::URL of the archive``. The names of
members are those that a stranger gave: whatever stands in one, the archive is what follows the
last ``::`` with a URL behind it, so a name is only ever a name.
"""

import re
from pathlib import PurePosixPath

ARCHIVES = {
    ".zip": "zip",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".tar.bz2": "tar",
    ".tar.xz": "tar",
}
GLOB = "*?["  # letters of a pattern
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
# Formats of scanners that say by their name what they are.
LOCAL = frozenset({".czi", ".mrxs", ".ndpi", ".svslide", ".vms", ".vmu"})  # and no plain TIFF
VENDORS = LOCAL | {".bif", ".scn", ".svs"}
TIFF = frozenset({".tif", ".tiff"})
SLIDE_EXTENSIONS = VENDORS | TIFF
# Where a manifest may send whoever reads it, beside the filesystem that it lies on itself. A
# scheme that asks any host, or chains others behind it, is none of them.
SCHEMES = frozenset({"file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})

_LINK = re.compile(r"::(?=\w+://)")


def archive_kind(source: str) -> str | None:
    """The kind of archive that a file's name says it is, or None."""
    return next((kind for end, kind in ARCHIVES.items() if source.lower().endswith(end)), None)


def in_archive(uri: str) -> bool:
    """Whether an address is that of a member of an archive."""
    return uri.partition("://")[0] in ARCHIVES.values()


def split_link(rest: str) -> tuple[str, str]:
    """Divide ``inside::archive`` into what is in an archive and where the archive is.

    >>> split_link("a.png::http://host/b.zip::file:///night.zip")
    ('a.png::http://host/b.zip', 'file:///night.zip')
    """
    links = [match.start() for match in _LINK.finditer(rest)]
    at = links[-1] if links else rest.rfind("::")
    return (rest[:at], rest[at + 2 :]) if at >= 0 else ("", rest)


def holds_link(address: str) -> bool:
    """Whether an archive's own address would be taken for another's behind a member's name."""
    return _LINK.search(address) is not None


def path_of(uri: str) -> str:
    """The path of a file without its protocol, or of a member within its archive."""
    rest = uri.partition("://")[2] if "://" in uri else uri
    return split_link(rest)[0] if in_archive(uri) else rest


def extension_of(uri: str) -> str:
    """The extension of the file that an address names, in small letters.

    >>> extension_of("zip://a/cell.PNG::file:///night.zip")
    '.png'
    """
    return PurePosixPath(path_of(uri)).suffix.lower()


def foreign_scheme(uri: str, allowed: frozenset[str] = SCHEMES) -> str | None:
    """The scheme for which an address of a manifest must not be read, or None where it may be."""
    if in_archive(uri):
        uri = split_link(uri.partition("://")[2])[1]
    scheme, found, _ = uri.partition("://")
    return scheme if found and scheme not in allowed else None


def as_text(name: str) -> str:
    r"""A name as text that any file can hold, whatever bytes it is made of.

    >>> as_text("caf\udce9.png")
    'caf\\udce9.png'
    """
    return name.encode("utf-8", "backslashreplace").decode()
