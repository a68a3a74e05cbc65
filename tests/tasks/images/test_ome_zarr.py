"""Slides in OME-Zarr: folders of chunks that are listed, told apart and read as one slide."""

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image

from tasks.images.access.files import digest_of_file, stamp
from tasks.images.listing import list_images
from tasks.images.opened_slides import is_slide, open_slide
from tests.support.smooth_slides import SMOOTH, reason

HALF = SMOOTH[::2, ::2]


def written(
    path: Path | str,
    levels: tuple[NDArray[Any], ...] = (SMOOTH, HALF),
    *,
    version: int = 3,
    axes: str = "tczyx",
) -> str:
    """Write levels (h, w, c) as the specification lays them out, and return the folder's URL."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    for number, pixels in enumerate(levels):
        whole = pixels.transpose(2, 0, 1)[None, :, None]  # tczyx
        left_out = tuple(n for n, axis in enumerate("tczyx") if axis not in axes)
        kept = [axis for axis in "tczyx" if axis in axes]
        laid = whole.squeeze(left_out).transpose([kept.index(axis) for axis in axes])
        most = {"y": 200, "x": 256}
        chunks = tuple(min(n, most.get(axis, n)) for axis, n in zip(axes, laid.shape, strict=True))
        made = group.create_array(str(number), shape=laid.shape, chunks=chunks, dtype=laid.dtype)
        made[:] = laid
    units = {"x": "micrometer", "y": "micrometer"}
    scales = [{"y": 0.25, "x": 0.25}.get(axis, 1.0) for axis in axes]
    described = {
        "axes": [
            {"name": a, "type": "space", **({"unit": units[a]} if a in units else {})} for a in axes
        ],
        "datasets": [
            {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scales}]}
            for n in range(len(levels))
        ],
    }
    told = {"multiscales": [described]}
    group.attrs.update({"ome": told | {"version": "0.5"}} if version == 3 else told)
    return str(path) if "://" in str(path) else f"file://{path}"


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["tczyx", "cyx", "yxc"])
def test_a_box_has_the_slides_pixels(tmp_path: Path, version: int, axes: str) -> None:
    slide = open_slide(written(tmp_path / "a.ome.zarr", version=version, axes=axes))
    assert (slide.width, slide.height, slide.downsamples) == (900, 700, (1.0, 2.0))
    assert slide.microns_per_pixel == 0.25
    np.testing.assert_array_equal(slide.read(100, 150, 300, 200), SMOOTH[150:350, 100:400])
    np.testing.assert_array_equal(slide.read(100, 150, 300, 200, 1), HALF[75:175, 50:200])
    outside = slide.read(-50, 650, 100, 100)
    np.testing.assert_array_equal(outside[:50, 50:], SMOOTH[650:, :50])
    assert (outside[:, :50] == 255).all()
    assert (outside[50:] == 255).all()


def test_grey_and_sixteen_bits_are_rgb(tmp_path: Path) -> None:
    deep = (SMOOTH[..., :1].astype(np.uint16)) * 257
    found = open_slide(written(tmp_path / "a.zarr", (deep,), axes="cyx")).read(0, 0, 90, 70)
    np.testing.assert_array_equal(found, np.repeat(SMOOTH[:70, :90, :1], 3, axis=2))


def test_a_slide_is_read_where_it_lies() -> None:
    url = written("memory://night/a.ome.zarr")
    try:
        np.testing.assert_array_equal(open_slide(url).read(10, 20, 30, 40), SMOOTH[20:60, 10:40])
        (row,) = list_images("memory://night", extensions=frozenset({".zarr"})).to_pylist()
        assert row["uri"] == "memory:///night/a.ome.zarr"
    finally:
        fsspec.filesystem("memory").rm("/night", recursive=True)


def test_a_folder_is_one_slide_and_its_chunks_are_no_images(tmp_path: Path) -> None:
    inner = tmp_path / "patient-7" / "a.ome.zarr"
    inner.parent.mkdir()
    uri = written(inner)
    Image.new("RGB", (20, 20)).save(inner / "preview.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")
    some = frozenset({".zarr", ".png"})
    assert is_slide(uri)
    found = list_images(str(tmp_path), extensions=some)["uri"].to_pylist()
    assert sorted(found) == [f"file://{tmp_path}/b.png", uri]
    assert list_images(str(inner), extensions=some)["uri"].to_pylist() == [uri]
    (row,) = list_images(f"{tmp_path}/*/*.zarr", extensions=some).to_pylist()
    assert row["uri"] == uri
    assert row["size"] == sum(p.stat().st_size for p in inner.rglob("*") if p.is_file())


def test_a_slide_is_another_when_a_chunk_is(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    uri = written(path)
    before = stamp(uri), digest_of_file(uri)
    assert (stamp(uri), digest_of_file(uri)) == before
    chunk = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0\0")
    assert stamp(uri) != before[0]
    assert digest_of_file(uri) != before[1]


def test_hostile_folders_say_what_is_wrong(tmp_path: Path) -> None:
    films = written(tmp_path / "film.zarr", (SMOOTH,), axes="cyx")
    about = tmp_path / "film.zarr" / "zarr.json"
    assert (
        reason(written(tmp_path / "five.zarr", (np.zeros((20, 20, 5), np.uint8),)), "5 channels")
        == "not_an_image"
    )
    told = json.loads(about.read_text())
    told["attributes"]["ome"]["multiscales"][0]["axes"][0]["name"] = "z"
    about.write_text(json.dumps(told))
    assert reason(films, "3 planes, of which one") == "several_pictures"
    del told["attributes"]["ome"]
    about.write_text(json.dumps(told))
    assert reason(films, "no multiscales") == "not_an_image"
    about.write_text("{")
    assert reason(films, "cannot be read as OME-Zarr") == "not_an_image"
    (tmp_path / "empty.zarr").mkdir()
    assert reason(f"file://{tmp_path}/empty.zarr", "FileNotFoundError") == "unreadable"


def test_a_damaged_chunk_is_said(tmp_path: Path) -> None:
    uri = written(tmp_path / "a.zarr", (SMOOTH,))
    for chunk in (tmp_path / "a.zarr" / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no chunk")
    assert reason(uri, "copy the slide again") == "damaged"


def test_a_claim_of_chunks_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    uri = written(path, (SMOOTH,), axes="cyx")
    about = path / "0" / "zarr.json"
    told = json.loads(about.read_text())
    told["shape"] = [3, 10**6, 10**6]
    told["chunk_grid"]["configuration"]["chunk_shape"] = [3, 10**6, 10**6]
    about.write_text(json.dumps(told))
    assert reason(uri, "pieces of 1000000 x 1000000 pixels") == "too_large"
