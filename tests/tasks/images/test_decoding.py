import io
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from subprocess import PIPE, run

import numpy as np
import pytest
from PIL import Image, ImageOps
from pillow_heif import register_heif_opener
from tifffile import TiffWriter

from tasks.images.decoding import (
    FORMATS,
    LARGEST_CELL,
    LARGEST_TRAINING_CELL,
    MOST_PIXELS,
    REASONS,
    BadImageError,
    Picture,
    decode,
    decode_rgb,
    mean_colour,
)
from tasks.smears.synthetic import rendered_cells as render
from tests.support.images import encode

SIDE = 16
RED, HALF_RED, BLACK = (200, 0, 0), (100, 0, 0), (0, 0, 0)


def cell() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(render.red_cell(render.draw_patient(1, rng), rng, "ring"))


def attempt(content: bytes) -> Picture | BadImageError:
    """A sound picture or an honest refusal; anything else fails the test that asks."""
    outcome: Picture | BadImageError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks on broken metadata
        try:
            outcome = decode(content, SIDE)
        except BadImageError as error:
            outcome = error
    if isinstance(outcome, BadImageError):
        assert outcome.reason in REASONS
        assert str(outcome)
    else:
        assert outcome.pixels.shape == (SIDE, SIDE, 3)
        assert outcome.pixels.dtype == np.uint8
        assert min(outcome.width, outcome.height) > 0
    return outcome


def reason(content: bytes) -> str:
    outcome = attempt(content)
    return outcome.reason if isinstance(outcome, BadImageError) else "none"


def colour(content: bytes) -> tuple[int, ...]:
    """The one colour of an image that has one."""
    picture = decode(content, SIDE)
    assert (picture.pixels == picture.pixels[0, 0]).all()
    return tuple(picture.pixels[0, 0].tolist())


register_heif_opener()  # to write it
SAVED = {kind: encode(cell(), kind) for kind in (*FORMATS, "HEIF")}


@pytest.mark.parametrize("kind", SAVED)
def test_every_format_gives_the_pixels_that_were_saved(kind: str) -> None:
    picture = decode(SAVED[kind], SIDE)
    wanted = decode(SAVED["PNG"], SIDE)
    assert (picture.width, picture.height) == cell().size
    lossy = kind in {"JPEG", "WEBP", "HEIF"}
    difference = np.abs(picture.pixels.astype(int) - wanted.pixels.astype(int))
    assert difference.mean() <= (4 if lossy else 0)


def plain(mode: str, value: object) -> Image.Image:
    return Image.new(mode, (9, 7), value)


def palette(**info: object) -> Image.Image:
    image = Image.new("P", (9, 7), 0)
    image.putpalette(RED)
    image.info.update(info)
    return image


def deep(value: float, kind: type) -> Image.Image:
    return Image.fromarray(np.full((7, 9), value, kind))


@pytest.mark.parametrize(
    ("image", "kind", "options", "wanted"),
    [
        (plain("L", 77), "PNG", {}, (77, 77, 77)),
        (plain("L", 77), "PNG", {"transparency": 77}, BLACK),
        (plain("1", 1), "PNG", {}, (255, 255, 255)),
        (palette(), "PNG", {}, RED),
        (palette(), "PNG", {"transparency": 0}, BLACK),
        (plain("RGB", RED), "PNG", {"transparency": RED}, BLACK),
        (plain("RGBA", (*RED, 128)), "PNG", {}, HALF_RED),
        (plain("RGBA", (*RED, 255)), "TIFF", {}, RED),
        (plain("RGBA", (*RED, 128)), "WEBP", {"lossless": True}, HALF_RED),
        (plain("LA", (200, 128)), "PNG", {}, (100, 100, 100)),
        (plain("CMYK", (0, 255, 255, 0)), "TIFF", {}, (255, 0, 0)),
        (deep(0, np.uint16), "PNG", {}, BLACK),
        (deep(32_768, np.uint16), "PNG", {}, (127, 127, 127)),
        (deep(65_535, np.uint16), "TIFF", {}, (255, 255, 255)),
        (deep(32_768, ">u2"), "TIFF", {}, (127, 127, 127)),
        (deep(-1, np.int32), "TIFF", {}, BLACK),
        (deep(0.5, np.float32), "TIFF", {}, (127, 127, 127)),
        (deep(32_768, np.float32), "TIFF", {}, (127, 127, 127)),
        (deep(np.inf, np.float32), "TIFF", {}, (255, 255, 255)),
    ],
)
def test_every_mode_becomes_eight_bits_of_red_green_and_blue(
    image: Image.Image, kind: str, options: dict[str, object], wanted: tuple[int, ...]
) -> None:
    assert colour(encode(image, kind, **options)) == wanted


def test_pixels_that_are_not_a_number_are_damage() -> None:
    pixels = np.zeros((7, 9), np.float32)
    pixels[3, 3] = np.nan
    assert reason(encode(Image.fromarray(pixels), "TIFF")) == "damaged"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1, LARGEST_CELL), (LARGEST_CELL, 1)])
def test_the_thinnest_images_fill_the_square(kind: str, size: tuple[int, int]) -> None:
    picture = attempt(encode(Image.new("RGB", size, RED), kind))
    assert isinstance(picture, Picture)
    assert (picture.width, picture.height) == size
    assert abs(picture.pixels.astype(int) - RED).max() <= 8


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not_an_image"),
        (b"uri,label\n1.png,Parasitized\n", "not_an_image"),
        ("eine Zelle 🩸".encode(), "not_an_image"),
        (encode(palette(), "GIF"), "not_an_image"),
        (encode(cell(), "PPM"), "not_an_image"),
        (encode(cell(), "PDF"), "not_an_image"),
        (SAVED["PNG"][:8], "not_an_image"),
        (SAVED["PNG"][: len(SAVED["PNG"]) // 2], "damaged"),
        (SAVED["JPEG"][: len(SAVED["JPEG"]) // 2], "damaged"),
        (SAVED["BMP"][: len(SAVED["BMP"]) // 2], "damaged"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(content: bytes, wanted: str) -> None:
    assert reason(content) == wanted


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )  # fmt: skip


def bmp_header(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("header", [png_header, bmp_header])
@pytest.mark.parametrize(
    "size", [(MOST_PIXELS + 1, 1), (10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**30)]
)
def test_a_bomb_is_refused_from_its_header_before_memory_is_taken(
    header: Callable[[int, int], bytes], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("memory was taken for the pixels")

    monkeypatch.setattr(Image.core, "new", explode)
    with pytest.raises(BadImageError) as caught:
        decode_rgb(header(*size))
    assert caught.value.reason == "too_large"
    assert reason(header(*size)) == "not_a_cell"


@pytest.mark.parametrize(
    "error",
    [struct.error("short"), zlib.error("bad"), AssertionError(), KeyError(1), MemoryError()],
)
def test_whatever_a_decoder_raises_becomes_damage(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object) -> None:
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert reason(SAVED["JPEG"]) == "damaged"


def test_a_user_who_stops_the_run_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(KeyboardInterrupt):
        decode(SAVED["JPEG"], SIDE)


def test_the_mean_colour_is_that_of_the_cell_and_not_of_its_surroundings() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert np.isnan(mean_colour(pixels)).all()
    pixels[2:4, :4] = 200, 100, 50
    pixels[4:6, :4] = 100, 100, 150
    assert mean_colour(pixels) == (150, 100, 100)


@pytest.mark.parametrize("size", [(LARGEST_CELL + 1, 20), (20, LARGEST_CELL + 1), (1280, 960)])
def test_a_picture_too_large_for_a_cell_is_refused_by_its_header_with_the_command_that_was_meant(
    size: tuple[int, int],
) -> None:
    refused = attempt(png_header(*size))
    assert isinstance(refused, BadImageError)
    assert refused.reason == "not_a_cell"
    assert str(refused).startswith(f"{size[0]} x {size[1]} pixels are more than a cell's 1,000")
    assert "`slidewatch segment`" in str(refused)
    photograph = encode(Image.new("RGB", size), "PNG")
    assert decode_rgb(photograph).size == size


def test_only_a_picture_larger_than_any_training_cell_is_checked_as_large_as_it_is() -> None:
    side, seen = LARGEST_TRAINING_CELL, list[tuple[str, tuple[int, int]]]()

    def check(image: Image.Image) -> None:
        seen.append((image.mode, image.size))

    for size in ((side, side), (side + 1, 30), (30, LARGEST_CELL)):
        decode(encode(Image.new("L", size), "JPEG"), SIDE, check)
    assert seen == [("RGB", (side + 1, 30)), ("RGB", (30, LARGEST_CELL))]


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8))


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_pages_and_moments_after_the_first_are_not_dropped_without_a_word(kind: str) -> None:
    assert reason(encode(noise(0), kind)) == "none"
    several = encode(noise(0), kind, save_all=True, append_images=[noise(1), noise(2)])
    assert reason(several) == "several_pictures"


@pytest.mark.parametrize("further", ["reduced", "page"])
def test_a_reduction_of_a_picture_is_no_other_picture(further: str) -> None:
    buffer = io.BytesIO()
    with TiffWriter(buffer) as tiff:
        tiff.write(np.asarray(noise(0)), photometric="rgb")
        kind = 1 if further == "reduced" else 0
        tiff.write(np.asarray(noise(0))[::2, ::2], photometric="rgb", subfiletype=kind)
    assert reason(buffer.getvalue()) == ("several_pictures" if further == "page" else "none")
    if further != "page":
        assert np.array_equal(np.asarray(decode_rgb(buffer.getvalue())), np.asarray(noise(0)))


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_turned_as_its_camera_was_held(kind: str, turn: int) -> None:
    noted = Image.Exif()
    noted[0x0112] = turn
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = encode(noise(0), kind, exif=noted, **lossless)
    with Image.open(io.BytesIO(content)) as image:
        wanted = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(decode_rgb(content)), np.asarray(wanted))
    picture = decode(content, SIDE)
    assert (picture.width, picture.height) == wanted.size
    if kind != "TIFF":
        assert decode_rgb(content, upright=False).size == (9, 6)


def test_a_broken_note_of_the_camera_is_no_damage_to_the_picture() -> None:
    content = encode(noise(0), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert reason(content) == "none"
    code = f"from tasks.images.decoding import decode_rgb; decode_rgb({content!r})"
    assert not run([sys.executable, "-c", code], stderr=PIPE, check=True).stderr
    assert reason(encode(noise(0), "PNG", exif=b"no exif at all")) == "none"
