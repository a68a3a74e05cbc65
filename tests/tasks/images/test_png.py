"""Plain PNG files are decoded to Pillow's pixels, and all others are left to Pillow."""

import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tasks.images.decoding import BadImageError, Picture, decode, decode_rgb, resize
from tasks.images.png import SIGNATURE, decode_plain
from tests.support import images, needs, paths

LONGEST = 400
SIZES = [(1, 1), (1, 7), (8, 8), (131, 128), (64, 400)]


def pixels(width: int, height: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def saved(image: Image.Image, **options: Any) -> bytes:
    return images.encode(image, "PNG", **options)


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], len(SIGNATURE)
    while start < len(content):
        (length,) = struct.unpack_from(">I", content, start)
        found.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    return found


def built(parts: list[tuple[bytes, bytes]]) -> bytes:
    """Make a file of chunks, whose checksums are right whatever is in them."""
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", [0, 9])
def test_a_plain_file_has_the_same_pixels(size: tuple[int, int], level: int) -> None:
    content = saved(Image.fromarray(pixels(*size)), compress_level=level)
    found = decode_plain(content, LONGEST)
    assert found is not None
    assert np.array_equal(found, pixels(*size))
    expected = resize(decode_rgb(content), 64)
    assert np.array_equal(decode(content, 64).pixels, expected)


def others() -> dict[str, bytes]:
    picture = Image.fromarray(pixels(40, 30))
    turned = Image.Exif()
    turned[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "made by a microscope")
    deep = Image.fromarray(pixels(40, 30)[..., 0].astype(np.uint16) * 257)
    plain = saved(picture)
    interlaced = bytearray(plain)
    interlaced[28] = 1
    return {
        "palette": saved(picture.quantize(16)),
        "grey": saved(picture.convert("L")),
        "16 bits": saved(deep),
        "alpha": saved(picture.convert("RGBA")),
        "a transparent colour": saved(picture, transparency=(1, 2, 3)),
        "1 bit": saved(picture.convert("1")),
        "turned": saved(picture, exif=turned),
        "a comment": saved(picture, pnginfo=text),
        "several": saved(picture, save_all=True, append_images=[picture.rotate(90)]),
        "interlaced": built(chunks(bytes(interlaced))),
        "larger": saved(Image.fromarray(pixels(LONGEST + 1, 2))),
        "cut": plain[:-30],
        "without its end": plain[:-12],
        "with more after its end": plain + b"x",
        "a flipped bit": plain[:60] + bytes([plain[60] ^ 4]) + plain[61:],
        "JPEG": b"\xff\xd8\xff",
        "nothing": b"",
    }


@pytest.mark.parametrize("name", others())
def test_any_other_file_is_left_to_pillow(name: str) -> None:
    assert decode_plain(others()[name], LONGEST) is None


def by_pillow(content: bytes) -> np.ndarray[Any, Any] | None:
    try:
        return np.asarray(decode_rgb(content))
    except BadImageError:
        return None


def test_what_is_decoded_of_malformed_files_is_what_pillow_decodes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Their checksums are right, so that only what is inside is wrong."""
    chosen, decoded = random.Random(1), 0
    parts = chunks(saved(Image.fromarray(pixels(60, 50) // 64)))
    for number in range(200):
        _name, data = chosen.choice([part for part in parts if part[0] == b"IDAT"])
        broken = bytearray(data)
        place = chosen.randrange(len(data))
        if number % 3 == 0:
            broken[place] ^= 1 << chosen.randrange(8)
        elif number % 3 == 1:
            del broken[place:]
        else:
            broken += bytes(place % 50)
        content = built([(n, bytes(broken) if d is data else d) for n, d in parts])
        found = decode_plain(content, LONGEST)
        if found is not None:
            decoded += 1
            assert np.array_equal(found, by_pillow(content))
    assert decoded > 5


@pytest.mark.parametrize("window", range(9))  # 2^8 to 2^15 bytes, and one that is too large
def test_a_window_that_is_stated_too_small_is_no_damage_to_pillow_either(window: int) -> None:
    picture = np.concatenate([pixels(100, 30)] * 2)  # repeats what is 9,030 bytes back
    parts = dict(chunks(saved(Image.fromarray(picture))))
    first = window << 4 | 8
    header = bytes([first, -(first << 8) % 31])
    parts[b"IDAT"] = header + parts[b"IDAT"][2:]
    content = built(list(parts.items()))
    found, expected = decode_plain(content, LONGEST), by_pillow(content)
    assert (found is None) == (expected is None) == (window > 7)
    assert expected is None or np.array_equal(found, picture)


@needs.needs_data("cell_images.zip")
def test_real_cells_are_decoded_here_and_to_the_same_pixels() -> None:
    from zipfile import ZipFile

    with ZipFile(paths.DATA / "cell_images.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        for name in names[:: len(names) // 100]:
            content = archive.read(name)
            found = decode_plain(content, LONGEST)
            assert found is not None
            assert np.array_equal(found, decode_rgb(content))
            assert isinstance(decode(content, 64), Picture)
