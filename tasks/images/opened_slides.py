"""Open whole slides in place, to be read by region; a process keeps the last few open."""

from functools import lru_cache
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from tasks.images import geometry
from tasks.images.access import addresses, files
from tasks.images.decoding import BadImageError
from tasks.images.formats import ome_zarr, tiff, vendor


def is_slide(uri: str) -> bool:
    """Return whether a file is a whole slide, by its name or, for TIFF, its header.

    A folder of OME-Zarr is a slide. A TIFF is a slide if it is tiled, has further levels in its
    first directory, or has more pixels than a photograph may have; False if it cannot be read.
    """
    extension = addresses.extension_of(uri)
    if extension in addresses.VENDORS:
        return True
    if extension == addresses.ZARR:
        return not addresses.in_archive(uri)
    if extension not in addresses.TIFF or addresses.in_archive(uri):
        return False
    return tiff.is_tiled_or_large(*files.filesystem(uri))


def open_slide(uri: str) -> geometry.Slide:
    """Open a slide, or return the one that this process has open if its file is unchanged.

    Several threads may read it at once. BadImageError says why it cannot be read.
    """
    if addresses.in_archive(uri):
        raise BadImageError(
            "unreadable", "a slide is read by region, which archives do not allow: unpack it"
        )
    try:
        return _open(uri, files.known_stamp(uri))
    except BadImageError:
        raise
    # A slide must never stop its batch, whatever its filesystem raises.
    except Exception as error:
        raise BadImageError("unreadable", f"{type(error).__name__}: {error}") from None


@lru_cache(maxsize=8)
def _open(uri: str, _stamp: str) -> geometry.Slide:
    fs, path = files.filesystem(uri)
    if addresses.extension_of(uri) == addresses.ZARR:
        return ome_zarr.open_ome_zarr(fs, path)
    if isinstance(fs, LocalFileSystem):
        if vendor.is_of_a_scanner(Path(path)):
            return vendor.open_vendor(Path(path))
        if addresses.extension_of(uri) == addresses.DICOM:
            raise BadImageError("not_an_image", "no whole slide in DICOM: export the slide again")
        return tiff.open_tiff(fs, path)
    if addresses.extension_of(uri) in addresses.LOCAL:
        raise BadImageError(
            "unreadable",
            f"{addresses.extension_of(uri)} is read from a local disk only: copy it to one",
        )
    return tiff.open_tiff(fs, path)
