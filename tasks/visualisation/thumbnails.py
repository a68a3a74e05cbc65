"""Draw a cell small, and the heat map of its distance over it."""

import io
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from PIL import Image

from tasks.detector.explanation import Explanation
from tasks.types import Float

HEAT_COLOURS = "inferno"  # from dark to light in every kind of colour vision, and in grey
# The share of a drawn pixel that is the heat; the rest is the image in grey.
HEAT = 0.6
THUMBNAIL = 128  # pixels of the longer side at most
QUALITY = 85


@dataclass(frozen=True)
class Exhibit:
    """Hold what a page shows of a cell.

    ``thumbnail`` and ``heat`` are WebP files; without a thumbnail, ``missing`` says why. Without
    ``heat`` the tap of the explanation has no locations.
    """

    missing: str | None = None
    thumbnail: bytes | None = None
    heat: bytes | None = None
    explanation: Explanation | None = None


def make_exhibit(image: Image.Image, explanation: Explanation) -> Exhibit:
    """Draw a cell, and its heat map where it has one."""
    small = thumbnail(image)
    shares = explanation.shares
    heat = None if shares is None else _webp(heat_picture(small, shares))
    return Exhibit(thumbnail=_webp(small), heat=heat, explanation=explanation)


def thumbnail(image: Image.Image) -> Image.Image:
    """Make an image as small as a page shows it; a small one stays as it is."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return small


def heat_picture(image: Image.Image, shares: Float) -> Image.Image:
    """Draw shares (h, w) over an RGB image in grey: black adds nothing, the lightest the most."""
    top = float(shares.max(initial=0.0))
    heat = np.clip(shares / top, 0.0, 1.0) if top > 0 else np.zeros_like(shares)
    smooth = Image.fromarray(np.asarray(255 * heat, np.uint8)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    colours = (255 * mpl.colormaps[HEAT_COLOURS](np.asarray(smooth))[..., :3]).astype(np.uint8)
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray(colours), HEAT)


def _webp(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()
