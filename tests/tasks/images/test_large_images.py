"""Images near the limit of pixels: one after the other, and strip by strip."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.images import decoding
from tasks.images.decoding import BadImageError, decode, decode_rgb, failure_of
from tasks.images.regions import find
from tests.support.images import encode, whole_file
from tests.support.peak import extra_peak

RNG = np.random.default_rng(1)
MODES = {
    "RGB": ("PNG", RNG.integers(0, 256, (23, 17, 3), np.uint8)),
    "RGBA": ("PNG", RNG.integers(0, 256, (23, 17, 4), np.uint8)),
    "LA": ("PNG", RNG.integers(0, 256, (23, 17, 2), np.uint8)),
    "L": ("PNG", RNG.integers(0, 256, (23, 17), np.uint8)),
    "16 bits": ("PNG", RNG.integers(0, 65536, (23, 17), np.uint16)),
    "16 bits, turned round": ("TIFF", RNG.integers(0, 65536, (23, 17)).astype(">u2")),
    "32 bits": ("TIFF", RNG.integers(0, 65536, (23, 17), np.int32)),
    "small numbers": ("TIFF", RNG.random((23, 17), np.float32)),
    "large numbers": ("TIFF", np.concatenate([np.zeros((22, 17)), [[9e4] * 17]]).astype("f4")),
}


@pytest.mark.parametrize("mode", [*MODES, "palette", "transparent colour"])
def test_pixels_are_the_same_strip_by_strip(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode in MODES:
        kind, pixels = MODES[mode]
        content = encode(Image.fromarray(pixels), kind)
    elif mode == "palette":
        content = encode(Image.fromarray(MODES["RGB"][1]).quantize(9), "PNG", transparency=3)
    else:
        content = encode(Image.fromarray(MODES["L"][1]), "PNG", transparency=77)
    whole = np.asarray(decode_rgb(content))
    monkeypatch.setattr(decoding, "STRIP", 40)
    monkeypatch.setattr(decoding, "LARGE", 1)
    assert np.array_equal(np.asarray(decode_rgb(content)), whole)


def test_large_images_are_decoded_one_after_the_other_and_small_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content, together = encode(Image.fromarray(MODES["RGB"][1]), "PNG"), threading.Barrier(3)
    honest, inside, most = decoding._as_rgb, [0], [0]

    def as_rgb(image: Image.Image) -> Image.Image:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        if image.width * image.height <= decoding.LARGE:
            together.wait(10)
        inside[0] -= 1
        return honest(image)

    monkeypatch.setattr(decoding, "_as_rgb", as_rgb)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(decode_rgb, [content] * 3))
        assert most == [3]
        monkeypatch.setattr(decoding, "LARGE", 1)
        most[0] = 0
        list(pool.map(decode_rgb, [content] * 30))
        assert most == [1]


def test_a_failure_does_not_hold_the_pixels_of_its_image() -> None:
    content = encode(Image.fromarray(MODES["RGBA"][1]), "PNG")
    with pytest.raises(BadImageError) as caught:
        decode(content[: len(content) // 2], 8)
    assert caught.value.__traceback__
    failure = failure_of(caught.value)
    assert (failure.reason, str(failure)) == ("damaged", str(caught.value))
    assert (failure.__traceback__, failure.__context__) == (None, None)


def load_all(folder: str) -> Callable[[], object]:
    """Load the images of a folder in four threads."""
    refs = [whole_file(path.as_uri()) for path in sorted(Path(folder).iterdir())]

    def load() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda ref: find(ref).image().size, refs))

    return load


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alpha", "numbers"])
def test_many_images_near_the_limit_take_no_more_memory_than_one(tmp_path: Path, kind: str) -> None:
    side = int(decoding.MOST_PIXELS**0.5)
    for number in range(4):
        if kind == "alpha":
            pixels = np.zeros((side, side, 4), np.uint8)
            pixels[:100, :100] = number
            Image.fromarray(pixels).save(tmp_path / f"{number}.png", compress_level=1)
        else:
            numbers = np.zeros((side, side), np.float32)
            numbers[:100, :100] = number / 4
            compressed = {"compression": "tiff_adobe_deflate"}
            Image.fromarray(numbers).save(tmp_path / f"{number}.tif", **compressed)
    taken = extra_peak(load_all, str(tmp_path))
    print(f"four images of {side} x {side} pixels ({kind}): {taken:.0f} MiB")
    assert taken < 600  # 3,600 and 4,500 when all were decoded at once
