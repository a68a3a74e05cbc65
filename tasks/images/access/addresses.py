"""Read the addresses of images: archive and member, extension, and whether they may be read.

A file has a URL. A member of an archive has ``zip://member::URL of the archive``. Names of members
are given by strangers: whatever a name holds, the address of the archive follows the last ``::``
that has a URL behind it, so that no name is taken for an address.
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
# Formats of scanners that are known by their extension.
DICOM = ".dcm"  # each level of a slide is a file of its own
LOCAL = frozenset({".czi", DICOM, ".mrxs", ".ndpi", ".svslide", ".vms", ".vmu"})  # no plain TIFF
VENDORS = LOCAL | {".bif", ".scn", ".svs"}
TIFF = frozenset({".tif", ".tiff"})
ZARR = ".zarr"  # a folder that is one slide
SLIDE_EXTENSIONS = VENDORS | TIFF | {ZARR}
# A manifest may name addresses of these schemes, and those on the filesystem that it lies on
# itself. A scheme that asks any host, or chains others behind it, is left out.
SCHEMES = frozenset({"file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})

# Filesystems of this machine, which ask for no password: what looks like one is a name.
HERE = frozenset({"file", "local"})

_LINK = re.compile(r"::(?=\w+://)")
# user:password@, whatever is in the password; a port and an @ in the path are none.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/\s'\"]*|[^/\s'\"@:]+:(?!:|\d+/)[^\s'\"@]*)@")
_TOKEN = re.compile(
    r"([?&;#][^=&\s]*(?:token|secret|passw|pwd|sig|key|credential|auth|session)[^=&\s]*=)"
    r"[^&\s'\"<>)]+",
    re.IGNORECASE,
)


def archive_kind(source: str) -> str | None:
    """Tell the kind of an archive by the extension of its name; None if it is no archive."""
    return next((kind for end, kind in ARCHIVES.items() if source.lower().endswith(end)), None)


def in_archive(uri: str) -> bool:
    """Tell whether an address is that of a member of an archive."""
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
    """Tell whether an archive's own address holds a link, which would hide it behind a member."""
    return _LINK.search(address) is not None


def path_of(uri: str) -> str:
    """Return the path of a file without its protocol, or of a member within its archive."""
    rest = uri.partition("://")[2] if "://" in uri else uri
    return split_link(rest)[0] if in_archive(uri) else rest


def extension_of(uri: str) -> str:
    """Return the extension of the file that an address names, in small letters.

    >>> extension_of("zip://a/cell.PNG::file:///night.zip")
    '.png'
    """
    return PurePosixPath(path_of(uri)).suffix.lower()


def foreign_scheme(uri: str, allowed: frozenset[str] = SCHEMES) -> str | None:
    """Return the scheme for which a manifest's address must not be read, or None if it may be."""
    if in_archive(uri):
        uri = split_link(uri.partition("://")[2])[1]
    scheme, found, _ = uri.partition("://")
    return scheme if found and scheme not in allowed else None


def slide_folder(path: str, below: str = "") -> str | None:
    """Return the part of a path that names a folder which is one slide; None if it is in none.

    >>> slide_folder("night/a.ome.zarr/0/zarr.json"), slide_folder("night/a.png")
    ('night/a.ome.zarr', None)
    """
    parts = path.removeprefix(below).split("/")
    end = next((n for n, part in enumerate(parts, 1) if part.lower().endswith(ZARR)), None)
    return None if end is None else path[: len(path) - len("/".join(["", *parts[end:]]))]


def redact(text: str) -> str:
    """Replace the passwords and tokens of URLs in a text by ``***``.

    >>> redact("no answer from https://me:pass@host/cells?id=7&token=abc")
    'no answer from https://***@host/cells?id=7&token=***'
    """
    return _TOKEN.sub(r"\1***", _USER.sub(_without_user, text))


def _without_user(match: re.Match[str]) -> str:
    # What stands behind zip:// and tar:// is a name in an archive, where an @ means nothing.
    in_one = match[1].lower() in ARCHIVES.values()
    return match[0] if in_one else f"{match[1]}://***@"


def holds_secret(address: str) -> bool:
    """Tell whether a password or token stands in an address, wherever that leads.

    >>> holds_secret("s3://me:pass@bucket/cells"), holds_secret("zip://a@b.png::/night.zip")
    (True, False)
    """
    if in_archive(address):
        address = split_link(address.partition("://")[2])[1]
    scheme, found, _ = address.partition("://")
    return bool(found) and scheme not in HERE and redact(address) != address


def as_text(name: str) -> str:
    r"""Convert a name to text that any file can hold, whatever bytes it is made of.

    >>> as_text("caf\udce9.png")
    'caf\\udce9.png'
    """
    return name.encode("utf-8", "backslashreplace").decode()
