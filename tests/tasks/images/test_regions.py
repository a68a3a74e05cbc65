"""Images that are regions of larger ones."""

import io
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tifffile import TiffWriter, imwrite

from tasks.images.access.files import SourceError, digest_of_file, stamp
from tasks.images.decoding import LARGEST_CELL, BadImageError
from tasks.images.listing import list_images
from tasks.images.manifest import SCHEMA, Region, address_of
from tasks.images.regions import MOST_CELL_BYTES, ImageRef, find, image_refs
from tasks.network.extraction import Reading, load_image
from tests.support.archives import write_zip
from tests.support.images import refusal_of, whole_file


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    path = tmp_path / "field.png"
    Image.fromarray(pixels).save(path)
    return path


def ref_of(path: Path, region: Region, **more: object) -> ImageRef:
    uri = f"file://{path}"
    return ImageRef(address_of(uri, region), uri, region, **more)  # type: ignore[arg-type]


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_region_has_the_pixels_of_its_place(photograph: Path) -> None:
    found = find(ref_of(photograph, Region(30, 20, 50, 40)))
    np.testing.assert_array_equal(np.asarray(found.image()), pixels_of(photograph)[20:60, 30:80])
    picture = found.picture(16)
    assert picture.pixels.shape == (16, 16, 3)
    assert (picture.width, picture.height) == (50, 40)


def test_it_is_black_outside_its_outline_and_has_the_size_of_training_cells(
    photograph: Path,
) -> None:
    circle = 20 + 19 * np.exp(2j * np.pi * np.arange(48) / 48)
    outline = np.stack([circle.real, circle.imag], axis=1).astype(np.float32)
    outline[:, 1] += 20
    ref = ref_of(photograph, Region(30, 20, 40, 40), scale=2.0, outline=outline)
    lit = np.asarray(find(ref).image()).any(axis=2)
    assert lit.shape == (75, 75)  # slightly within the outline of 76
    assert lit.mean() == pytest.approx(np.pi / 4, abs=0.02)
    assert not lit[[0, 0, -1, -1], [0, -1, 0, -1]].any()


@pytest.mark.parametrize("points", [[], [[3.0, 4.0]] * 2, [[0.0, 0.0], [9.0, 0.0], [np.nan, 9.0]]])
def test_a_cell_without_an_outline_is_not_cut_out(
    photograph: Path, points: list[list[float]]
) -> None:
    outline = np.asarray(points, np.float32).reshape(-1, 2)
    ref = ref_of(photograph, Region(30, 20, 40, 40), outline=outline)
    assert "its outline has no three points" in str(load_image(ref, 8).failure)


def test_its_digest_is_that_of_its_source_and_of_what_is_cut_out(
    photograph: Path, tmp_path: Path
) -> None:
    region = Region(30, 20, 50, 40)
    one = find(ref_of(photograph, region)).image_id
    copy = tmp_path / "copy.png"
    copy.write_bytes(photograph.read_bytes())
    assert find(ref_of(copy, region)).image_id == one
    outline = np.zeros((3, 2), np.float32)
    others = [
        ref_of(photograph, Region(31, 20, 50, 40)),
        ref_of(photograph, Region(30, 20, 50, 40, 1)),
        ref_of(photograph, region, scale=1.5),
        ref_of(photograph, region, outline=outline),
        ref_of(photograph, region, outline=outline + 1),
    ]
    Image.fromarray(255 - pixels_of(photograph)).save(copy)
    others.append(ref_of(tmp_path / "other.png", region))
    (tmp_path / "other.png").write_bytes(copy.read_bytes())
    assert len({one, *(find(each).image_id for each in others)}) == 7


def test_a_source_is_not_read_for_the_digest_that_its_stamp_stands_for(photograph: Path) -> None:
    uri, region = f"file://{photograph}", Region(0, 0, 9, 9)
    right = ref_of(photograph, region)
    known = ref_of(photograph, region, source_id=digest_of_file(uri), source_stamp=stamp(uri))
    assert find(known).image_id == find(right).image_id
    told = ref_of(photograph, region, source_id=bytes(32), source_stamp=stamp(uri))
    assert find(told).image_id != find(right).image_id
    right_id = digest_of_file(uri)
    stale = ref_of(photograph, region, source_id=right_id, source_stamp="another time")
    assert find(stale).image_id == find(right).image_id


def test_a_source_that_was_replaced_makes_another_image(
    photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.images.access.files.ASSUMED", 1e-9)
    uri, region = f"file://{photograph}", Region(0, 0, 9, 9)
    ref = ref_of(photograph, region, source_id=digest_of_file(uri), source_stamp=stamp(uri))
    before = find(ref)
    first = np.asarray(before.image())
    Image.fromarray(255 - pixels_of(photograph)).save(photograph, compress_level=1)
    another = find(ref_of(photograph, region))
    assert another.image_id != before.image_id
    np.testing.assert_array_equal(np.asarray(another.image()), 255 - first)
    # What was found in the old picture is not cut out of the new one.
    failed = load_image(ref, 8)
    assert "the file was changed since it was cut up" in str(failed.failure)


@pytest.mark.parametrize(
    "region",
    [
        Region(0, 0, 161, 5),
        Region(150, 0, 20, 5),
        Region(0, 119, 5, 5),
        Region(-1, 0, 5, 5),
        Region(0, 0, 0, 5),
        Region(0, 0, 5, 5, 1),
        Region(2**40, 0, 5, 5),
    ],
)
def test_a_region_that_is_not_in_its_source_is_damaged(photograph: Path, region: Region) -> None:
    loaded = load_image(ref_of(photograph, region), 8)
    assert str(region.x) in str(loaded.failure)
    assert (loaded.failure and loaded.failure.reason) == "damaged"
    assert loaded.image_id is not None


@pytest.mark.parametrize(
    ("region", "scale", "reason"),
    [
        (Region(5000, 10, 60, 60), 1.0, "damaged"),
        (Region(850, 0, 60, 60), 1.0, "damaged"),
        (Region(0, 650, 60, 60), 1.0, "damaged"),
        (Region(0, 0, 60, 60, 1), 1.0, "damaged"),
        (Region(0, 0, 60, 60, -1), 1.0, "damaged"),
        (Region(0, 0, 100_000, 100_000), 1.0, "too_large"),
        (Region(0, 0, 60, 60), 1e6, "too_large"),
        (Region(0, 0, 60, 60), 1e200, "too_large"),
        (Region(0, 0, 60, 60), 0.0, "damaged"),
        (Region(0, 0, 60, 60), -1.0, "damaged"),
        (Region(0, 0, 60, 60), float("nan"), "damaged"),
        (Region(0, 0, 60, 60), float("inf"), "damaged"),
    ],
)
def test_no_region_of_a_slide_is_made_up_or_takes_more_memory_than_a_tile(
    tmp_path: Path, region: Region, scale: float, reason: str
) -> None:
    path = tmp_path / "slide.tif"
    imwrite(path, np.zeros((700, 900, 3), np.uint8), tile=(128, 128), photometric="rgb")
    assert refusal_of(ref_of(path, region, scale=scale)).reason == reason


def test_a_region_may_be_less_than_a_pixel_of_a_coarse_level(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    with TiffWriter(path) as file:
        for side in (512, 64):
            file.write(np.zeros((side, side, 3), np.uint8), tile=(64, 64), photometric="rgb")
    failure = refusal_of(ref_of(path, Region(10, 10, 3, 3, 1)))
    assert str(failure) == "(10, 10, 3, 3, 1) is less than a pixel of its level"


def test_a_region_of_what_is_gone_or_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"no image")
    gone, text = (ref_of(tmp_path / name, Region(0, 0, 5, 5)) for name in ("gone.png", "text.png"))
    assert refusal_of(gone).reason == "unreadable"
    assert load_image(gone, 8).image_id is None
    assert refusal_of(text).reason == "not_an_image"


def test_what_a_manifest_knows_to_have_failed_is_not_read() -> None:
    row = {"uri": "file:///gone/1.svs", "failure": "empty: the file has no bytes"}
    (ref,) = image_refs(pa.Table.from_pylist([row], SCHEMA))
    with pytest.raises(BadImageError, match="the file has no bytes") as raised:
        find(ref)
    assert raised.value.reason == "empty"
    (odd,) = image_refs(pa.Table.from_pylist([row | {"failure": "who knows"}], SCHEMA))
    assert (refusal_of(odd).reason, str(refusal_of(odd))) == ("damaged", "who knows")


def test_boxes_of_ones_own_in_a_csv(photograph: Path) -> None:
    manifest = photograph.parent / "boxes.csv"
    manifest.write_text(
        "source_uri,x,y,width,height,slide_id,label\n"
        "field.png,100,20,50,40,s1,Parasitized\n"
        "field.png,5,6,50,40,s1,\n"
    )
    table = list_images(str(manifest))
    uri = f"file://{photograph}"
    # In the manifest's order, whatever their names sort like.
    assert table["uri"].to_pylist() == [f"{uri}#xywh=100,20,50,40", f"{uri}#xywh=5,6,50,40"]
    first, _ = image_refs(table)
    np.testing.assert_array_equal(
        np.asarray(find(first).image()), pixels_of(photograph)[20:60, 100:150]
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("field.png,1,2,3,", "row 1: a region needs x, y, width, height; it has x, y, width"),
        (",1,2,3,4", "row 1: it has no uri"),
        ("field.png,one,2,3,4", "column 'x'"),
        ("field.png,1,2,3,4\nfield.png,1,2,3,4", "2 times"),
    ],
)
def test_half_a_region_and_one_that_stands_twice_are_refused(
    tmp_path: Path, line: str, message: str
) -> None:
    manifest = tmp_path / "boxes.csv"
    manifest.write_text(f"source_uri,x,y,width,height\n{line}\n")
    with pytest.raises(SourceError, match=message):
        list_images(str(manifest))


def test_a_region_of_a_member_of_an_archive(photograph: Path, tmp_path: Path) -> None:
    write_zip(tmp_path / "fields.zip", {"a/field.png": photograph.read_bytes()})
    uri = f"zip://a/field.png::file://{tmp_path}/fields.zip"
    region = Region(3, 4, 20, 10)
    found = find(ImageRef(address_of(uri, region), uri, region))
    np.testing.assert_array_equal(np.asarray(found.image()), pixels_of(photograph)[4:14, 3:23])
    alone = find(ref_of(photograph, region))
    assert found.image_id == alone.image_id


def test_a_whole_file_is_its_bytes(photograph: Path) -> None:
    content = photograph.read_bytes()
    found = find(whole_file(f"file://{photograph}"))
    assert found.image_id == sha256(content).digest()
    assert found.content == content
    np.testing.assert_array_equal(
        np.asarray(found.image()), np.asarray(Image.open(io.BytesIO(content)))
    )


def test_a_region_may_be_larger_than_a_file_that_is_taken_as_one_cell(tmp_path: Path) -> None:
    side = LARGEST_CELL + 1
    Image.new("RGB", (side, side), (200, 0, 0)).save(tmp_path / "field.png")
    assert refusal_of(whole_file(f"file://{tmp_path}/field.png")).reason == "not_a_cell"
    region = ref_of(tmp_path / "field.png", Region(0, 0, side, side))
    unchecked = Reading(check=lambda _: pytest.fail("checked"))
    assert load_image(region, 8, unchecked).size == (side, side)


def test_a_file_of_more_bytes_than_a_cell_has_is_not_read() -> None:
    slide = ImageRef("file:///slide.tif", "file:///slide.tif", size=MOST_CELL_BYTES + 1)
    assert refusal_of(slide).reason == "not_a_cell"
    assert "67,108,865 bytes" in str(refusal_of(slide))
    for other in (replace(slide, size=MOST_CELL_BYTES), replace(slide, region=Region(0, 0, 9, 9))):
        assert refusal_of(other).reason == "unreadable"
