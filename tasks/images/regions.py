"""Read an image from any place: a whole file, or a region of a photograph or a slide.

A region is read in place, and is the same image as long as its source is the same file: its digest
is made from the source's digest and the region.
"""

from dataclasses import dataclass
from hashlib import sha256
from math import inf
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tasks.images import decoding, geometry
from tasks.images.access.files import ChangedError, lately_stamped, read_bytes
from tasks.images.manifest import Region
from tasks.images.opened_slides import digest_at, read_region
from tasks.types import Single

# These columns of a manifest give the place of an image.
COLUMNS = [
    *("uri", "source_uri", "x", "y", "width", "height", "level", "scale", "outline"),
    *("source_id", "source_stamp", "failure", "size"),
]
MOST_REGION_PIXELS = 8192 * 8192
# Four times the size of the largest picture of a cell, uncompressed at 16 bytes per pixel.
MOST_CELL_BYTES = 2**26


@dataclass(frozen=True)
class ImageRef:
    """The place of an image, from a row of a manifest.

    ``uri`` names it; ``source`` is the file, and ``region`` the part of it; None for the whole
    file. ``outline`` (n, 2) is x and y from the region's corner, in pixels of the source, and
    ``scale`` how much larger the image is than its region. When it was frozen, the source had the
    sha256 ``source_id``, the ``source_stamp`` and, if it is a whole file, ``size`` bytes.
    """

    uri: str
    source: str
    region: Region | None = None
    scale: float = 1.0
    outline: Single | None = None
    source_id: bytes | None = None
    source_stamp: str | None = None
    failure: decoding.BadImageError | None = None
    size: int | None = None


@dataclass(frozen=True)
class Found:
    """An image that was found, with its digest; it is decoded on request."""

    image_id: bytes
    ref: ImageRef
    content: bytes | None = None

    def image(self) -> Image.Image:
        """Decode the image at its own size; BadImageError says why there is none."""
        if self.content is not None:
            return decoding.decode_rgb(self.content)
        return cut_from_source(self.ref)

    def picture(self, side: int, check: decoding.Check | None = None) -> decoding.Picture:
        """Decode the image as a square of ``side`` pixels; only a whole file is checked."""
        if self.content is not None:
            return decoding.decode(self.content, side, check)
        assert self.ref.region is not None
        pixels = decoding.resize(cut_from_source(self.ref), side)
        return decoding.Picture(pixels, self.ref.region.width, self.ref.region.height)


def image_refs(table: pa.Table) -> list[ImageRef]:
    """Make references to the images in a manifest."""
    return [_image_ref(row) for row in table.select(COLUMNS).to_pylist()] if len(table) else []


def _image_ref(row: dict[str, Any]) -> ImageRef:
    try:
        box, outline = tuple(row[name] for name in ("x", "y", "width", "height")), row["outline"]
        return ImageRef(
            row["uri"],
            row["source_uri"] or row["uri"],
            None if None in box else Region._make((*box, row["level"] or 0)),
            1.0 if row["scale"] is None else row["scale"],
            None if outline is None else np.asarray(outline, np.float32).reshape(-1, 2),
            bytes.fromhex(row["source_id"]) if row["source_id"] else None,
            row["source_stamp"],
            known_failure(row["failure"]) if row["failure"] else None,
            row["size"],
        )
    # A single row must never stop its batch, which is frozen.
    except (TypeError, ValueError) as error:
        failure = _damaged(f"its row of the manifest cannot be used: {error}")
        return ImageRef(row["uri"], row["source_uri"] or row["uri"], failure=failure)


def _damaged(message: str) -> decoding.BadImageError:
    return decoding.BadImageError("damaged", message)


def known_failure(text: str) -> decoding.BadImageError:
    """Parse a failure from a reason, a colon and the details; an unknown reason means damage."""
    word, _, details = text.partition(": ")
    known = next((reason for reason in decoding.REASONS if reason == word), None)
    return decoding.BadImageError(known, details) if known else _damaged(text)


def refuse_slide(ref: ImageRef) -> None:
    """Raise BadImageError if a whole file has more bytes than a cell, before reading them."""
    if ref.region is None and ref.size is not None and ref.size > MOST_CELL_BYTES:
        raise decoding.not_a_cell(f"{ref.size:,} bytes are more than a cell's {MOST_CELL_BYTES:,}")


def find(ref: ImageRef) -> Found:
    """Read a file, or check that a region's source is still the one in the manifest (ChangedError).

    BadImageError if the manifest says that it is no image, or whatever its filesystem raises.
    """
    if ref.failure is not None:
        raise ref.failure
    if ref.region is None:
        content = read_bytes(ref.source)
        if ref.size not in (None, len(content)):
            raise ChangedError(
                f"the file was changed since it was frozen: it had {ref.size:,} bytes and has "
                f"{len(content):,}; give the new file another name"
            )
        return Found(sha256(content).digest(), ref, content)
    stamp = lately_stamped(ref.source)
    known = ref.source_id if stamp == ref.source_stamp else None
    source = known or digest_at(ref.source, stamp)
    # In another picture this place is not the same cell.
    if ref.source_id not in (None, source):
        raise ChangedError("the file was changed since it was cut up: segment it by another name")
    digest = sha256(source)
    digest.update(np.asarray(ref.region, "<i8").tobytes())
    digest.update(np.asarray(ref.scale, "<f8").tobytes())
    if ref.outline is not None:
        digest.update(ref.outline.astype("<f4").tobytes())
    return Found(digest.digest(), ref)


def cut_from_source(ref: ImageRef) -> Image.Image:
    """Cut the image of a region out of its source; BadImageError says why it cannot be cut."""
    assert ref.region is not None
    x, y, width, height, level = ref.region
    if width < 1 or height < 1 or x < 0 or y < 0 or level < 0:
        raise _damaged(f"{tuple(ref.region)} is no region of an image")
    if not 0 < ref.scale < inf:
        raise _damaged(f"{ref.scale:g} is no scale of an image")
    # A manifest must not decide how much memory is used.
    enlarged = max(1.0, ref.scale)
    if (width * enlarged) * (height * enlarged) > MOST_REGION_PIXELS:
        raise decoding.BadImageError(
            "too_large",
            f"{tuple(ref.region)} at scale {ref.scale:g} has more than "
            f"{MOST_REGION_PIXELS:,} pixels: give a smaller region",
        )
    pixels = read_region(ref.source, ref.region)
    if not pixels.size:
        raise _damaged(f"{tuple(ref.region)} is less than a pixel of its level")
    # From pixels of the source to pixels of the level that was read.
    share = np.array([pixels.shape[1] / width, pixels.shape[0] / height])
    outline = ref.outline
    if outline is not None:
        if len(outline) < 3 or not np.isfinite(outline).all():
            raise _damaged("its outline has no three points in the manifest")
        outline = np.asarray(geometry.rescaled(outline, share), np.float32)
    scale = ref.scale / float(share[0])
    return geometry.cut_out(pixels, outline, scale)
