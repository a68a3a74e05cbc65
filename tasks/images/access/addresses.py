"""Parse addresses of images: archive and member, extension, and whether they may be read.

A file has a URL, a member of an archive ``zip://member::URL of the archive``. Names of members come
from strangers: whatever a name contains, the address of the archive follows the last ``::``
before a URL, so that no name is mistaken for an address.
"""

import re

ARCHIVES = {".zip": "zip"} | dict.fromkeys(
    (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), "tar"
)
EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".heic", ".heif"}
)
# Pictures that are not read: of other formats, and those that are not completely copied.
UNREAD = frozenset({
    ".arw", ".avif", ".cr2", ".cr3", ".dng", ".gif", ".jp2", ".jxl", ".nef", ".orf", ".raf", ".rw2",
})  # fmt: skip
PARTIAL = frozenset({".crdownload", ".download", ".part", ".partial"})
# Scanner formats that are recognised by their extension.
DICOM = ".dcm"  # each level of a slide is a separate file
LOCAL = frozenset({".czi", DICOM, ".mrxs", ".ndpi", ".svslide", ".vms", ".vmu"})  # no plain TIFF
VENDORS = LOCAL | {".bif", ".scn", ".svs"}
TIFF = frozenset({".tif", ".tiff"})
ZARR = ".zarr"  # a folder that is one slide
SLIDE_EXTENSIONS = VENDORS | TIFF | {ZARR}
# A manifest may name addresses of these schemes, and addresses on its own filesystem. Schemes that
# can reach any host, or chain others, are left out.
SCHEMES = frozenset({"file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
# Filesystems of this machine need no password: anything like one is part of a name.
HERE = frozenset({"file", "local"})

_LINK = re.compile(r"::(?=\w+://)")
# user:password@ with any password; a port, or an @ in the path, is not one.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/\s'\"]*|[^/\s'\"@:]+:(?!:|\d+/)[^\s'\"@]*)@")
_TOKEN = re.compile(
    r"([?&;#][^=&\s]*(?:token|secret|passw|pwd|sig|key|credential|auth|session)[^=&\s]*=)"
    r"[^&\s'\"<>)]+",
    re.IGNORECASE,
)


def archive_kind(source: str) -> str | None:
    """Return the kind of an archive by its extension; None if it is no archive."""
    return next((kind for end, kind in ARCHIVES.items() if source.lower().endswith(end)), None)


def in_archive(uri: str) -> bool:
    """Return whether an address is that of a member of an archive."""
    return uri.partition("://")[0] in ARCHIVES.values()


def split_link(rest: str) -> tuple[str, str]:
    """Divide ``inside::archive`` into the member and the archive's address."""
    links = [match.start() for match in _LINK.finditer(rest)]
    at = links[-1] if links else rest.rfind("::")
    return (rest[:at], rest[at + 2 :]) if at >= 0 else ("", rest)


def file_of(uri: str) -> str:
    """Return the address of a file, or of the archive that a member is in."""
    return split_link(uri.partition("://")[2])[1] if in_archive(uri) else uri


def holds_link(address: str) -> bool:
    """Return whether an archive's own address contains a link, which would look like a member."""
    return _LINK.search(address) is not None


def path_of(uri: str) -> str:
    """Return the path of a file without its protocol, or of a member within its archive."""
    rest = uri.partition("://")[2] if "://" in uri else uri
    return split_link(rest)[0] if in_archive(uri) else rest


def is_pattern(path: str) -> bool:
    """Return whether a path is a pattern of several."""
    return any(letter in path for letter in "*?[")


def parts_of(path: str) -> list[str]:
    """List the folders of a path, and its file, several times as fast as `pathlib` does."""
    return [part for part in path.split("/") if part and part != "."]


def extension(path: str) -> str:
    """Return the extension of a path's file, in lower case."""
    name = path.rstrip("/").rpartition("/")[2]
    at = name.rfind(".")
    return name[at:].lower() if 0 < at < len(name) - 1 else ""


def extension_of(uri: str) -> str:
    """Return the extension of the file that an address names, in lower case.

    >>> extension_of("zip://a/cell.PNG::file:///night.zip")
    '.png'
    """
    return extension(path_of(uri))


def foreign_scheme(uri: str, allowed: frozenset[str] = SCHEMES) -> str | None:
    """Return the scheme that forbids reading a manifest's address; None if it may be read."""
    scheme, separator, _ = file_of(uri).partition("://")
    return scheme if separator and scheme not in allowed else None


def slide_folder(path: str, below: str = "") -> str | None:
    """Return the part of a path up to a folder that is one slide; None if there is none.

    >>> slide_folder("night/a.ome.zarr/0/zarr.json"), slide_folder("night/a.png")
    ('night/a.ome.zarr', None)
    """
    parts = path.removeprefix(below).split("/")
    end = next((n for n, part in enumerate(parts, 1) if part.lower().endswith(ZARR)), None)
    return None if end is None else path[: len(path) - len("/".join(["", *parts[end:]]))]


def redact(text: str) -> str:
    """Replace the passwords and tokens of URLs in a text by ``***``."""
    return _TOKEN.sub(r"\1***", _USER.sub(_without_user, text))


def _without_user(match: re.Match[str]) -> str:
    # After zip:// and tar:// comes a name in an archive, in which an @ means nothing.
    in_one = match[1].lower() in ARCHIVES.values()
    return match[0] if in_one else f"{match[1]}://***@"


def holds_secret(address: str) -> bool:
    """Return whether an address of any kind contains a password or token."""
    address = file_of(address)
    scheme, separator, _ = address.partition("://")
    return bool(separator) and scheme not in HERE and redact(address) != address


def as_text(name: str) -> str:
    r"""Convert a name of any bytes to text that any file can store."""
    return name.encode("utf-8", "backslashreplace").decode()
