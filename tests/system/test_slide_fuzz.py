"""Damaged slides: each gives pixels or has a reason, and none kills or fills the process."""

import logging
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tifffile import TiffWriter

from tasks.images.decoding import REASONS, BadImageError
from tasks.images.opened_slides import is_slide, open_slide
from tests.support.damage import ANY, PICTURE, Saved, outcomes, variants

MOST_MEMORY = 400  # MiB
APERIO = "Aperio Image Library v10.0.51\r\n900x700 [0,0 900x700] (128x128)|AppMag = 40|MPP = 0.25"
WAYS: list[dict[str, Any]] = [
    {"compression": "jpeg"},
    {"compression": "jpeg", "description": APERIO},  # which OpenSlide reads
    {"compression": "lzw", "predictor": True},
    {"compression": "deflate", "byteorder": ">"},
    {"compression": "jpeg2000"},
    {"compression": "zstd"},
    {"compression": "packbits", "bigtiff": True},
    {"subifds": 1},
    {"tile": None, "rowsperstrip": 16},
]


def whole(folder: Path) -> list[Saved]:
    """Slides of two levels, one of each way to store them."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((450, 350)))
    files = []
    for number, way in enumerate(WAYS):
        path = folder / f"{number}.tif"
        options = {"tile": (128, 128), "photometric": "rgb", "metadata": None, **way}
        kinds = {name: options.pop(name) for name in ("bigtiff", "byteorder") if name in options}
        within = options.pop("subifds", 0)
        with TiffWriter(path, **kinds) as tiff:
            tiff.write(pixels, subifds=within, **options)
            tiff.write(pixels[::2, ::2], subfiletype=1, **options)
        files.append(("/".join(map(str, way.values()))[:30], path.read_bytes()))
    return files


def claiming(rng: random.Random, file: Saved, other: Saved) -> bytes:
    """Other types, counts and values in some entries of the first directory."""
    content = bytearray(file[1])
    order = "<" if content[:2] == b"II" else ">"
    big = content[2 if order == "<" else 3] == 43
    start = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
    number = struct.unpack_from(order + ("Q" if big else "H"), content, start)[0]
    entry, first = (20, start + 8) if big else (12, start + 2)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = first + entry * rng.randrange(number)
        if rng.random() < 0.2:
            struct.pack_into(order + "H", content, at + 2, rng.randrange(19))
            continue
        field = rng.choice([4, entry - (8 if big else 4)])
        value = rng.choice([0, 1, 2, 255, 65_535, 10**6, 10**9, 2**32 - 1, rng.randrange(2**16)])
        struct.pack_into(order + ("Q" if big else "I"), content, at + field, value)
    return bytes(content)


DAMAGE = (*ANY, claiming, claiming, claiming)


def outcome(path: str) -> str:
    """What came of a slide; an AssertionError where it is nothing that may come of one."""
    uri = Path(path).as_uri()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    is_slide(uri)
    try:
        slide = open_slide(uri)
        assert slide.downsamples[0] == 1
        for level, downsample in enumerate(slide.downsamples):
            for x, y in ((0, 0), (slide.width - 300, slide.height - 300)):
                pixels = slide.read(x, y, 500, 400, level)
                assert pixels.shape == (round(400 / downsample), round(500 / downsample), 3)
                assert pixels.dtype == np.uint8
    except BadImageError as error:
        failure = error
    else:
        return PICTURE
    assert failure.reason in REASONS
    assert str(failure)
    return failure.reason


@pytest.mark.parametrize("each", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_every_damaged_slide_gives_pixels_or_has_a_reason(tmp_path: Path, each: int) -> None:
    files = whole(tmp_path)
    counted = outcomes(files, tmp_path, outcome, ".tif", MOST_MEMORY)
    assert counted == Counter({(kind, PICTURE): 1 for kind, _ in files})
    counted = outcomes(variants(files, DAMAGE, each), tmp_path, outcome, ".tif", MOST_MEMORY)
    assert counted.total() == len(files) * len(DAMAGE) * each
    assert {PICTURE, "damaged"} <= {column for _, column in counted}
