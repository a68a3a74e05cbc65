"""Thousands of damaged images: each is a picture or has a reason, and no process dies of one."""

import io
import random
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.images.access.files import read_bytes
from tasks.images.decoding import FORMATS, REASONS
from tasks.images.listing import list_images
from tasks.network.extraction import load_image
from tasks.smears.synthetic import rendered_cells as render
from tests.support import damage, images, needs, paths

SIDE = 32
# How cells are saved: a format, a mode and options of Pillow's.
WAYS: list[tuple[str, str, dict[str, object]]] = [
    *(("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
    ("JPEG", "RGB", {"progressive": True}),
    *(("TIFF", mode, {}) for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "F")),
    *(
        ("TIFF", "RGB", {"compression": compression})
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ),
    *(("BMP", mode, {}) for mode in ("RGB", "RGBA", "L", "P", "1")),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {}),
    ("WEBP", "RGBA", {"lossless": True}),
]
DEEP = {"I;16": np.uint16, "F": np.float32}


def saved(cell: Image.Image, kind: str, mode: str, options: dict[str, object]) -> damage.Saved:
    if mode in DEEP:
        image = Image.fromarray(np.asarray(cell.convert("L"), DEEP[mode]) * 257)
    else:
        image = cell.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return kind, buffer.getvalue()


def rendered() -> list[damage.Saved]:
    rng = np.random.default_rng(0)
    cell = Image.fromarray(render.red_cell(render.draw_patient(1, rng), rng, "ring"))
    return [saved(cell.resize((60, 50)), *way) for way in WAYS]


def real() -> list[damage.Saved]:
    """Real cells as they are, and saved in the other formats."""
    uris = list_images(str(paths.DATA / "cell_images.zip"), limit=3)["uri"].to_pylist()
    files = [read_bytes(uri) for uri in uris]
    cells = [Image.open(io.BytesIO(content)).convert("RGB") for content in files]
    return [("PNG", content) for content in files] + [
        saved(cell, kind, "RGB", {}) for cell in cells for kind in FORMATS if kind != "PNG"
    ]


# Damage


def resized(rng: random.Random, file: damage.Saved, other: damage.Saved) -> bytes:
    """Other numbers where the header says how wide and high the image is."""
    kind, content = file[0], bytearray(file[1])
    start, stop = size_field(kind, file[1])
    for place in rng.sample(range(start, stop), rng.randint(1, stop - start)):
        content[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    if kind == "PNG":  # so that the size is believed
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def size_field(kind: str, content: bytes) -> tuple[int, int]:
    """Where width and height lie in a file's header."""
    if kind == "JPEG":
        frame = re.search(rb"\xff[\xc0\xc2]\x00", content)
        assert frame
        return frame.start() + 5, frame.start() + 9
    if kind == "TIFF":  # the first two entries of the directory
        directory = struct.unpack("<I", content[4:8])[0]
        return directory + 2, directory + 26
    return {"PNG": (16, 24), "BMP": (18, 26), "WEBP": (24, 30)}[kind]


DAMAGE = (*damage.ANY, resized)


# Loading


def outcome(path: str) -> str:
    """What came of an image; an AssertionError where it is nothing that may come of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on broken metadata
        loaded = load_image(images.whole_file(f"file://{path}"), SIDE)
    assert loaded.image_id is not None
    if loaded.failure:
        assert loaded.pixels is None
        assert loaded.failure.reason in REASONS
        assert str(loaded.failure)
        return loaded.failure.reason
    assert loaded.pixels is not None
    assert loaded.pixels.shape == (SIDE, SIDE, 3)
    assert loaded.pixels.dtype == np.uint8
    return damage.PICTURE


needs_real_cells = needs.needs_data("cell_images.zip")


@pytest.mark.parametrize(
    ("whole", "each"),
    [
        (rendered, 2),
        pytest.param(rendered, 20, marks=pytest.mark.slow),
        pytest.param(real, 10, marks=[pytest.mark.slow, needs_real_cells]),
    ],
)
def test_every_damaged_image_is_a_picture_or_has_a_reason(
    whole: Callable[[], list[damage.Saved]], each: int, tmp_path: Path
) -> None:
    files = whole()
    assert {kind for kind, _ in files} == set(FORMATS)
    unhurt = damage.outcomes(files, tmp_path, outcome)
    assert {result for _, result in unhurt} == {damage.PICTURE}
    damaged = list(damage.variants(files, DAMAGE, each))
    counted = damage.outcomes(damaged, tmp_path, outcome)
    assert counted.total() == len(damaged) == each * len(DAMAGE) * len(files)
    for kind in FORMATS:
        assert counted[kind, damage.PICTURE] > 0
        assert counted[kind, "damaged"] > 0
