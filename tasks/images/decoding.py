"""Decode the bytes of a file to pixels of the size that the network takes."""

import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from tasks.images.access.files import TooLargeError
from tasks.images.png import decode_plain
from tasks.types import Pixels

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
MOST_PIXELS = 50_000_000
LARGE = 4_000_000  # pixels; larger images are decoded one at a time
STRIP = 2**20  # pixels that are converted at once
BLACK = 16  # of 255; JPEG and resizing keep black below it
# The version of a file's pixels: features of images decoded by another version are not reused.
DECODING = 1
# Pixels of the longer side of a cell. At the finest credible scale, .01 microns a pixel, a red cell
# is 750 pixels wide.
LARGEST_CELL = 1000
LARGEST_TRAINING_CELL = 400  # the same for the NIH cells
# Tags of TIFF and EXIF.
ORIENTATION, SUBFILE_TYPE = 0x0112, 254
REDUCED_OR_MASK = 1 | 4
MOST_PAGES = 200
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The kernel is part of the model: with another one, a detector finds the same cells abnormal.
RESIZE = Image.Resampling.BILINEAR
# A single thread rather than a lock: each thread has memory of its own, which the allocator keeps
# when an image is freed.
_ONE_BY_ONE = ThreadPoolExecutor(1, thread_name_prefix="decode-large")
# A remark of Pillow on a file that it can read asks nothing of whoever gave the folder.
warnings.filterwarnings("ignore", module=r"PIL\.")

Result = TypeVar("Result")
Check = Callable[[Image.Image], None]
Reason = Literal[
    "unreadable", "empty", "not_an_image", "too_large", "damaged", "killed_worker",
    "unknown_magnification", "too_coarse", "several_pictures", "not_a_cell", "left_out",
    "no_thin_smear",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)
NOT_READ = {"unreadable", "empty", "not_an_image", "damaged", "killed_worker"}


class BadImageError(Exception):
    """An image cannot be scored, for a reason from a fixed list."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImageError"], tuple[Reason, str]]:
        return (BadImageError, (self.reason, str(self)))


def failure_of(error: Exception) -> BadImageError:
    """Convert any error of reading an image, without its traceback, which would keep the pixels."""
    if isinstance(error, BadImageError):
        return BadImageError(error.reason, str(error))
    if isinstance(error, TooLargeError):
        return BadImageError("too_large", str(error))
    return BadImageError("unreadable", f"{type(error).__name__}: {error}")


def not_a_cell(seen: str) -> BadImageError:
    """Make the error for a file that is no picture of one cell, by the evidence ``seen``."""
    return BadImageError(
        "not_a_cell",
        f"{seen}, and a file is taken as one cell: cut photographs and slides up with "
        "`slidewatch segment`, and give the manifest that it writes",
    )


def is_masked(pixels: Pixels) -> bool:
    """Return whether a picture (h, w, 3) was masked: a camera's corners are never quite black."""
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    return int(np.count_nonzero(corners.any(axis=1))) <= 1


@dataclass(frozen=True)
class Picture:
    """A decoded image: ``pixels`` uint8 (side, side, 3), and its original size in pixels."""

    pixels: Pixels
    width: int
    height: int


def decode(content: bytes, side: int, check: Check | None = None) -> Picture:
    """Decode a picture of one cell, in one of `FORMATS`, to RGB and resize it to a square.

    Pictures larger than `LARGEST_CELL` are refused by their header, and those larger than any
    training cell by ``check``; BadImageError says why.
    """
    plain = decode_plain(content, LARGEST_TRAINING_CELL)  # too small to be checked
    if plain is not None:
        height, width = plain.shape[:2]
        return Picture(resize(Image.fromarray(plain), side), width, height)

    def shrink(image: Image.Image) -> Picture:
        if check is not None and max(image.size) > LARGEST_TRAINING_CELL:
            check(image)
        picture = Picture(resize(image, side), *image.size)
        image.close()
        return picture

    return _decode(content, lambda image: _use(image, shrink), longest=LARGEST_CELL)


def decode_rgb(content: bytes, *, upright: bool = True) -> Image.Image:
    """Decode an image in one of `FORMATS` to RGB at its own size, rotated as its camera was held.

    Regions of a photograph are in its rows, and not ``upright``. BadImageError says why it fails.
    """
    return _decode(content, lambda image: _use(image, lambda colours: colours, upright))


def size_of(content: bytes) -> tuple[int, int]:
    """Read width and height from the header of an image in one of `FORMATS`, or BadImageError."""
    return _decode(content, lambda image: image.size)


def opened(content: bytes) -> Image.Image:
    """Open an image in one of `FORMATS`, or in HEIC as telephones write it."""
    formats: tuple[str, ...] = FORMATS
    if content[4:8] == b"ftyp":
        from pillow_heif import register_heif_opener  # it takes 50 ms

        register_heif_opener()
        formats = ("HEIF",)
    return Image.open(io.BytesIO(content), formats=formats)


def _decode(
    content: bytes, use: Callable[[Image.Image], Result], *, longest: int | None = None
) -> Result:
    """Pass an opened image to ``use``; large ones are processed one at a time to bound memory."""
    if not content:
        raise BadImageError("empty", "the file has no bytes")
    try:
        with opened(content) as image:
            width, height = image.size
            if longest is not None and max(width, height) > longest:
                raise not_a_cell(
                    f"{width} x {height} pixels are more than a cell's {longest:,} to a side"
                )
            if width * height > MOST_PIXELS:
                size = f"{width} x {height} pixels"
                raise BadImageError("too_large", f"{size} are more than {MOST_PIXELS:,}")
            if _has_several(image):
                raise BadImageError(
                    "several_pictures",
                    "it holds several pictures, but only one would be read: save each as its "
                    "own file",
                )
            if width * height <= LARGE:
                return use(image)
            return _ONE_BY_ONE.submit(use, image).result()
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError("not_an_image", f"no {', '.join(FORMATS)} or HEIC file") from None
    except Image.DecompressionBombError as error:
        if longest is not None:
            raise not_a_cell(f"it has far more than {MOST_PIXELS:,} pixels") from None
        raise BadImageError("too_large", str(error)) from None
    # Decoders raise anything on damaged files (struct.error and zlib.error are no ValueError), and
    # an image must never stop its shard.
    except Exception as error:
        raise BadImageError("damaged", f"{type(error).__name__}: {error}") from None


def _use(image: Image.Image, use: Callable[[Image.Image], Result], upright: bool = True) -> Result:
    colours = _as_rgb(image)
    if upright:
        colours = _upright(colours, image)
    if colours is not image:
        image.close()
    return use(colours)


def _has_several(image: Image.Image) -> bool:
    """Return whether a file has further pages or frames that are not reductions of the first."""
    if image.format != "TIFF":
        # A camera's JPEG may contain previews, which Pillow also counts.
        return image.format in {"PNG", "WEBP"} and getattr(image, "n_frames", 1) > 1
    try:
        for page in range(1, MOST_PAGES):
            image.seek(page)
            if not image.tag_v2.get(SUBFILE_TYPE, 0) & REDUCED_OR_MASK:  # type: ignore[attr-defined]
                return True
    except EOFError:
        return False
    finally:
        image.seek(0)
    return True


def _upright(colours: Image.Image, image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))  # Pillow has already rotated TIFF
    # The note may be damaged while the picture is intact.
    except Exception:
        return colours
    return colours if turn is None else colours.transpose(turn)


def resize(image: Image.Image, side: int) -> Pixels:
    """Resize an RGB image to a square of pixels (side, side, 3)."""
    return np.asarray(image.resize((side, side), RESIZE), np.uint8)


def mean_colour(pixels: Pixels) -> tuple[float, float, float]:
    """Average red, green and blue of every second pixel (h, w, 3) that is not black, or NaN."""
    planes = np.ascontiguousarray(pixels[::2, ::2].transpose(2, 0, 1)).reshape(3, -1)
    lit = np.count_nonzero(planes.max(axis=0) > BLACK)
    red, green, blue = planes.sum(axis=1, dtype=np.uint64) / (lit or np.nan)
    return float(red), float(green), float(blue)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: scale 16-bit grey, and put transparency on black."""
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    convert = _conversion(image)
    strips = list(_strips(image))
    if len(strips) == 1:
        return convert(image)
    # Strip by strip, because intermediate images take several times the memory of the result.
    converted = Image.new("RGB", image.size)
    for box in strips:
        converted.paste(convert(image.crop(box)), box)
    return converted


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(image.height, top + rows)


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        top = 65535.0
        if image.mode == "F":
            most = [np.asarray(image.crop(box)).max(initial=0.0) for box in _strips(image)]
            if np.isnan(most).any():
                raise BadImageError("damaged", "some pixels are not a number")
            top = 65535.0 if max(most) > 1.0 else 1.0
        return partial(_grey_as_rgb, top=top)
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        return _on_black
    return lambda strip: strip.convert("RGB")


def _grey_as_rgb(image: Image.Image, top: float) -> Image.Image:
    deep = np.asarray(image, np.float64)
    grey = np.clip(deep / top * 255.0, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _on_black(image: Image.Image) -> Image.Image:
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
