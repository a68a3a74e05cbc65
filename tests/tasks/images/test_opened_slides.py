import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from openslide import OpenSlide
from PIL import Image
from tifffile import TiffFile, TiffWriter, imwrite

from tasks.images.decoding import BadImageError
from tasks.images.formats.tiff import open_tiff
from tasks.images.formats.vendor import is_of_a_scanner
from tasks.images.opened_slides import is_slide, open_slide
from tests.support.smooth_slides import SMOOTH, reason


def written(path: Path, pixels: NDArray[Any] = SMOOTH, **options: Any) -> str:
    imwrite(path, pixels, **{"tile": (128, 128), "photometric": "rgb", **options})
    return path.as_uri()


@pytest.mark.parametrize("box", [(0, 0, 900, 700), (100, 200, 300, 150), (127, 255, 2, 2)])
def test_a_box_has_the_slides_pixels(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    x, y, width, height = box
    uri = written(tmp_path / "a.tif")
    pixels = open_slide(uri).read(x, y, width, height)
    np.testing.assert_array_equal(pixels, SMOOTH[y : y + height, x : x + width])


@pytest.mark.parametrize(
    ("x", "y", "width", "height"),
    [(-50, -20, 100, 90), (850, 650, 128, 128), (2000, 0, 10, 20), (-300, 0, 100, 10)],
)
def test_outside_the_slide_is_white(
    tmp_path: Path, x: int, y: int, width: int, height: int
) -> None:
    wide = np.pad(SMOOTH, [(400, 2500), (400, 2500), (0, 0)], constant_values=255)
    pixels = open_slide(written(tmp_path / "a.tif")).read(x, y, width, height)
    np.testing.assert_array_equal(pixels, wide[400 + y :, 400 + x :][:height, :width])


@pytest.mark.parametrize(
    "options",
    [
        {"tile": None, "rowsperstrip": 64},
        {"tile": None, "rowsperstrip": 700},
        {"compression": "lzw", "predictor": True},
        {"compression": "deflate"},
        {"compression": "zstd"},
        {"compression": "packbits"},
        {"compression": "jpeg2000"},
        {"bigtiff": True, "byteorder": ">"},
        {"planarconfig": "separate"},
    ],
    ids=str,
)
def test_lossless_layouts_have_the_same_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = SMOOTH
    if options.get("planarconfig"):
        pixels = np.moveaxis(SMOOTH, 2, 0)
    opened = open_slide(written(tmp_path / "a.tif", pixels, **options))
    np.testing.assert_array_equal(opened.read(30, 40, 500, 600), SMOOTH[40:640, 30:530])


def test_many_tiles_are_fetched_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = written(tmp_path / "a.tif", np.moveaxis(SMOOTH, 2, 0), planarconfig="separate")
    fetched: list[int] = []

    def cat_ranges(
        self: LocalFileSystem, paths: list[str], starts: list[int], ends: list[int]
    ) -> list[bytes]:
        fetched.append(sum(ends) - sum(starts))
        return [self.cat_file(*each) for each in zip(paths, starts, ends, strict=True)]

    monkeypatch.setattr(LocalFileSystem, "cat_ranges", cat_ranges)
    monkeypatch.setattr("tasks.images.formats.tiff.MOST_FETCHED", 7 * 128 * 128)
    np.testing.assert_array_equal(open_slide(uri).read(0, 0, 900, 700), SMOOTH)
    assert max(fetched) == 6 * 128 * 128
    assert len(fetched) == 8 * 6 / 2


def test_jpeg_has_almost_the_same_pixels(tmp_path: Path) -> None:
    uri = written(tmp_path / "a.tif", compression="jpeg", compressionargs={"level": 95})
    difference = open_slide(uri).read(0, 0, 900, 700).astype(int) - SMOOTH
    assert np.abs(difference).mean() < 3


def test_sixteen_bits_are_scaled_and_grey_is_rgb(tmp_path: Path) -> None:
    deep = SMOOTH.astype(np.uint16) * 257
    opened = open_slide(written(tmp_path / "deep.tif", deep))
    np.testing.assert_array_equal(opened.read(0, 0, 900, 700), SMOOTH)
    grey = written(tmp_path / "grey.tif", SMOOTH[..., 1], photometric="minisblack")
    expected = np.repeat(SMOOTH[..., 1:2], 3, axis=2)
    np.testing.assert_array_equal(open_slide(grey).read(0, 0, 900, 700), expected)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    alpha = np.zeros((700, 900, 1), np.uint8)
    alpha[:100] = 255
    uri = written(tmp_path / "a.tif", np.concatenate([SMOOTH, alpha], 2), extrasamples=[2])
    pixels = open_slide(uri).read(0, 0, 900, 700)
    np.testing.assert_array_equal(pixels[:100], SMOOTH[:100])
    assert (pixels[100:] == 255).all()


def test_tiles_that_were_never_scanned_are_white(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    written(path)
    with TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        tag.overwrite([0, *tag.value[1:]])
    pixels = open_slide(path.as_uri()).read(0, 0, 200, 128)
    assert (pixels[:, :128] == 255).all()
    np.testing.assert_array_equal(pixels[:, 128:], SMOOTH[:128, 128:200])


@pytest.mark.parametrize("subifds", [True, False])
def test_levels_are_found_among_other_pictures(tmp_path: Path, subifds: bool) -> None:
    path = tmp_path / "a.tif"
    with TiffWriter(path) as tiff:
        options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
        tiff.write(SMOOTH, tile=(128, 128), subifds=2 if subifds else 0, **options)
        tiff.write(SMOOTH[::2, ::2], tile=(128, 128), subfiletype=1, **options)
        tiff.write(SMOOTH[::4, ::4], tile=(128, 128), subfiletype=1, **options)
        tiff.write(SMOOTH[::7, ::7], rowsperstrip=16, **options)  # a thumbnail
        tiff.write(SMOOTH[:300, :200], tile=(128, 128), subfiletype=9, **options)  # a label
    opened = open_slide(path.as_uri())
    assert opened.downsamples == (1, 2, 4)
    pixels = opened.read(100, 200, 400, 300, 1)
    np.testing.assert_array_equal(pixels, SMOOTH[::2, ::2][100:250, 50:250])
    assert opened.read(100, 200, 401, 303, 2).shape == (76, 100, 3)


OME = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="900" '
    'SizeY="700" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="{}" PhysicalSizeXUnit="{}" '
    'PhysicalSizeY="1"><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image>'
    "</OME>"
)
APERIO = "Aperio Image Library v10.0.51\r\n900x700 [0,0 900x700] (128x128)|AppMag = 40|MPP = 0.2527"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (254_000, 254_000), "resolutionunit": "INCH"}, 0.1),
        ({"resolution": (40_000, 80_000), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (40_000, 40_000), "resolutionunit": "NONE"}, None),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (0, 0), "resolutionunit": "INCH"}, None),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({}, None),
        ({"description": OME.format("0.1217", "µm")}, 0.1217),
        ({"description": OME.format("121.7", "nm")}, 0.1217),
        ({"description": OME.format("0.1217", "furlong")}, None),
        ({"description": OME.format("inf", "µm")}, None),
        ({"description": OME.format("-1", "µm")}, None),
        ({"description": OME.format("much", "µm")}, None),
        ({"description": APERIO}, 0.2527),
        ({"description": OME[:-20].format("0.1", "µm")}, None),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_microns_per_pixel(tmp_path: Path, options: dict[str, Any], expected: float | None) -> None:
    description = options.get("description", "").encode()
    uri = written(tmp_path / "a.tif", **{**options, "description": description, "metadata": None})
    found = open_slide(uri).microns_per_pixel
    assert found is expected if expected is None else found == pytest.approx(expected)


def test_which_files_are_slides(tmp_path: Path, slide: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "photograph.tif")
    Image.fromarray(SMOOTH).save(tmp_path / "photograph.png")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tiff").write_text("II*\0 no more")
    for name in ("photograph.tif", "photograph.png", "empty.tif", "text.tiff", "missing.tif"):
        assert not is_slide((tmp_path / name).as_uri())
    assert is_slide(slide.as_uri())
    assert is_slide(written(tmp_path / "tiled.TIFF"))
    wide = np.zeros((5001, 10_001), np.uint8)
    assert is_slide(
        written(tmp_path / "wide.tif", wide, tile=None, photometric="minisblack", compression="lzw")
    )
    assert is_slide("s3://bucket/A 1.SVS")
    assert is_slide("file:///slides/1.mrxs")
    assert not is_slide("zip://a.tif::file:///slides.zip")


def test_hostile_files_say_what_is_wrong(tmp_path: Path, slide: Path) -> None:
    content = slide.read_bytes()
    for name, some in {
        "cut.tif": content[: len(content) // 2],
        "nothing.svs": b"",
        "text.ndpi": b"no slide",
        "png.tif": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "header.tif": content[:20],
    }.items():
        (tmp_path / name).write_bytes(some)
    at = tmp_path.as_uri()
    assert reason(f"{at}/cut.tif", "cut short: .* tiles lie beyond its end; copy") == "damaged"
    assert reason(f"{at}/nothing.svs", "no bytes") == "empty"
    assert reason(f"{at}/text.ndpi", "no TIFF, whatever") == "not_an_image"
    assert reason(f"{at}/png.tif", "no TIFF, whatever") == "not_an_image"
    assert reason(f"{at}/header.tif", "copy the slide again") == "damaged"
    assert reason(f"{at}/missing.tif", "FileNotFoundError") == "unreadable"
    assert reason("nowhere://a.tif", "Protocol not known: nowhere") == "unreadable"
    assert reason(f"zip://a.svs::{at}/a.zip", "unpack it") == "unreadable"


def test_pictures_of_other_kinds_are_refused(tmp_path: Path) -> None:
    floats = written(tmp_path / "float.tif", SMOOTH.astype(np.float32))
    assert reason(floats, "32-bit samples, 3 a pixel: write it as .* `vips") == "not_an_image"
    inverse = written(tmp_path / "inverse.tif", SMOOTH[..., 0], photometric="miniswhite")
    assert reason(inverse, "MINISWHITE") == "not_an_image"
    strip = written(tmp_path / "strip.tif", np.zeros((4200, 4200), np.uint8), tile=None,
                    photometric="minisblack", rowsperstrip=4200, compression="lzw")  # fmt: skip
    assert reason(strip, "pieces of 4200 x 4200 pixels") == "too_large"


def claim(path: Path, tag: str, value: int) -> str:
    """Let a slide's directory claim something else."""
    with TiffFile(path, mode="r+") as tiff:
        where = tiff.pages.first.tags[tag]
        tiff.filehandle.seek(where.valueoffset)
        tiff.filehandle.write(struct.pack("<I", value))
    return path.as_uri()


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("ImageWidth", "of tiles, where .* are needed"),
        ("ImageLength", "of tiles, where .* are needed"),
        ("TileWidth", "pieces of 1000000000 x 128|of tiles, where"),
    ],
)
def test_a_claim_of_a_milliard_pixels_is_refused(tmp_path: Path, tag: str, says: str) -> None:
    written(tmp_path / "a.tif", bigtiff=True, metadata=None)
    assert reason(claim(tmp_path / "a.tif", tag, 10**9), says) in {"damaged", "too_large"}


def test_a_tile_too_large_for_memory_does_not_end_the_process(tmp_path: Path) -> None:
    """OpenSlide ends it."""
    path = tmp_path / "a.svs"
    aperio(path)
    assert OpenSlide.detect_format(path) == "aperio"
    assert reason(claim(path, "TileWidth", 10**9), "pieces of 1000000000 x 128") == "too_large"


def test_a_tile_that_claims_more_pixels_than_it_may_have_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big.jpg"
    Image.new("L", (8000, 8000)).save(big)
    path = tmp_path / "a.tif"
    with TiffWriter(path) as tiff:
        tiff.write(
            iter([big.read_bytes()]),
            shape=(512, 512),
            dtype=np.uint8,
            tile=(512, 512),
            photometric="minisblack",
            compression="jpeg",
        )
    assert reason(path.as_uri(), "it claims 8000 x 8000 pixels; copy") == "damaged"


def test_a_loop_of_directories_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    written(path, metadata=None)
    with TiffFile(path) as tiff:
        page = tiff.pages.first
        following = page.offset + 2 + 12 * len(page.tags)
    content = bytearray(path.read_bytes())
    content[following : following + 4] = struct.pack("<I", page.offset)
    path.write_bytes(content)
    np.testing.assert_array_equal(open_slide(path.as_uri()).read(0, 0, 900, 700), SMOOTH)


def test_a_slide_stays_open_until_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    uri = written(path)
    first = open_slide(uri)
    assert open_slide(uri) is first
    written(path, SMOOTH[:600, :800])
    os.utime(path, (1, 1))
    assert open_slide(uri).width == 800


def test_threads_share_a_slide(slide: Path) -> None:
    uri, start = slide.as_uri(), threading.Barrier(4)
    boxes = [(x, y, 500, 300) for x in range(0, 4096, 500) for y in range(0, 3072, 700)]
    alone = [open_slide(uri).read(*box) for box in boxes]

    def read_all(_: int) -> list[NDArray[np.uint8]]:
        start.wait()
        return [open_slide(uri).read(*box) for box in boxes]

    with ThreadPoolExecutor(4) as threads:
        for together in threads.map(read_all, range(4)):
            for one, other in zip(together, alone, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_a_slide_is_read_where_it_lies(
    request: pytest.FixtureRequest, slide: Path, scheme: str
) -> None:
    root = request.getfixturevalue("s3_bucket") if scheme == "s3" else "memory://slides"
    uri = f"{root}/far/smear.tif"
    with fsspec.open(uri, "wb") as file:
        file.write(slide.read_bytes())
    assert is_slide(uri)
    far, near = open_slide(uri), open_slide(slide.as_uri())
    assert far.downsamples == near.downsamples
    for level in range(3):
        np.testing.assert_array_equal(
            far.read(900, 700, 1200, 1000, level), near.read(900, 700, 1200, 1000, level)
        )


def aperio(path: Path, **options: Any) -> str:
    """Write a slide as Aperio's scanners do: levels, a thumbnail between them, and a label."""
    with TiffWriter(path) as tiff:
        for step in (1, 2):
            tiff.write(
                SMOOTH[::step, ::step],
                tile=(128, 128),
                description=APERIO,
                metadata=None,
                **{"photometric": "rgb", "compression": "jpeg", **options},
            )
            if step == 1:
                tiff.write(SMOOTH[::7, ::7], rowsperstrip=16, photometric="rgb", metadata=None)
    return path.as_uri()


def test_openslide_reads_what_scanners_write(tmp_path: Path) -> None:
    opened = open_slide(aperio(tmp_path / "a.svs"))
    assert is_of_a_scanner(tmp_path / "a.svs")
    assert (opened.width, opened.height) == (900, 700)
    assert opened.downsamples == (1, 2)
    assert opened.microns_per_pixel == pytest.approx(0.2527)
    plain = open_tiff(LocalFileSystem(), str(tmp_path / "a.svs"))
    assert plain.microns_per_pixel == pytest.approx(0.2527)
    assert plain.downsamples == opened.downsamples
    for box in ((0, 0, 900, 700), (-20, -40, 300, 200), (800, 600, 200, 200)):
        np.testing.assert_array_equal(opened.read(*box), plain.read(*box))
        assert np.abs(opened.read(*box, 1).astype(int) - plain.read(*box, 1)).max() <= 2


def test_a_damaged_tile_does_not_spoil_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    aperio(path)
    with TiffFile(path) as tiff:
        start, size = (
            t[0] for t in (tiff.pages.first.dataoffsets, tiff.pages.first.databytecounts)
        )
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    for open_any in (open_slide, lambda _: open_tiff(LocalFileSystem(), str(path))):
        opened = open_any(path.as_uri())
        whole = opened.read(400, 300, 300, 300)
        with pytest.raises(BadImageError, match="copy the slide again") as caught:
            opened.read(0, 0, 200, 200)
        assert caught.value.reason == "damaged"
        np.testing.assert_array_equal(opened.read(400, 300, 300, 300), whole)


def test_formats_of_several_files_are_read_from_a_disk_only() -> None:
    with fsspec.open("memory://slides/a.mrxs", "wb") as file:
        file.write(b"anything")
    assert reason("memory://slides/a.mrxs", "local disk only: copy it to one") == "unreadable"
