"""Whole slides in DICOM, whose levels are files of their own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from tasks.images.access.addresses import DICOM
from tasks.images.listing import list_images
from tasks.images.opened_slides import is_slide, open_slide
from tasks.smears.segmentation.dicom import one_file_a_slide, read_header
from tests.support.dicom import write_dicom_slide
from tests.support.smooth_slides import SMOOTH, reason


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the sources of a folder, and what is said of the others."""
    said: list[str] = []
    table = one_file_a_slide(list_images(str(folder), extensions=frozenset({DICOM})), said.append)
    return [uri.rpartition("/")[2] for uri in table["uri"].to_pylist()], said


def test_a_slide_has_its_levels_and_its_size(tmp_path: Path) -> None:
    files = write_dicom_slide(tmp_path, SMOOTH, levels=3, microns=0.25)
    for file in files:  # any one of them opens all
        slide = open_slide(file.as_uri())
        assert is_slide(file.as_uri())
        assert (slide.width, slide.height, slide.downsamples) == (900, 700, (1.0, 2.0, 4.0))
        assert slide.microns_per_pixel == pytest.approx(0.25)
        near = np.abs(slide.read(100, 200, 300, 150).astype(int) - SMOOTH[200:350, 100:400])
        assert near.mean() < 2  # JPEG
        assert slide.read(0, 0, 900, 700, 2).shape == (175, 225, 3)


def test_the_files_of_a_slide_are_one_source_that_of_the_largest_level(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dicom_slide(tmp_path, SMOOTH, levels=3, name=name)
    # A copy of a slide in another folder is another source.
    shutil.copytree(tmp_path, tmp_path / "copy")
    names, said = listed(tmp_path)
    assert sorted(names) == ["a-3.dcm", "a-3.dcm", "b-3.dcm", "b-3.dcm"]
    assert said == [
        "8 .dcm files are further levels, labels and overviews of slides, and are read with the "
        "file of the largest level"
    ]


def test_a_label_never_stands_for_its_slide(tmp_path: Path) -> None:
    files = write_dicom_slide(tmp_path, SMOOTH, levels=2, aside=("LABEL", "OVERVIEW"))
    assert len(files) == 4
    names, said = listed(tmp_path)
    assert names == ["slide-2.dcm"]
    assert said[0].startswith("3 .dcm files")


def test_what_is_no_slide_stays_and_says_why(tmp_path: Path) -> None:
    write_dicom_slide(tmp_path, SMOOTH, levels=1)
    (tmp_path / "no.dcm").write_bytes(b"no DICOM at all" * 100)
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "slide-1.dcm").read_bytes()[:300])
    names, said = listed(tmp_path)
    assert sorted(names) == ["cut.dcm", "no.dcm", "slide-1.dcm"]
    assert said == []
    for name in ("no.dcm", "cut.dcm"):
        uri = (tmp_path / name).as_uri()
        assert read_header(0, uri) is None
        assert reason(uri, "export the slide again") == "not_an_image"


def test_a_lone_level_is_a_slide_and_other_listings_stay_as_they_are(tmp_path: Path) -> None:
    _, small = write_dicom_slide(tmp_path / "whole", SMOOTH, levels=2)
    (tmp_path / "lone").mkdir()
    shutil.move(small, tmp_path / "lone")
    assert listed(tmp_path / "lone")[0] == [small.name]
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    photos = list_images(str(tmp_path), limit=None)
    assert one_file_a_slide(photos, pytest.fail).equals(photos)


def test_a_file_that_is_packed_as_a_whole_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zlib.decompress", lambda *_, **__: pytest.fail("it was unpacked"))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID("1.2"), UID("1.3")
    file = tmp_path / "a.dcm"
    with file.open("wb") as out:
        out.write(bytes(128) + b"DICM")
        write_file_meta_info(out, meta)
        out.write(bytes(64))
    assert read_header(0, file.as_uri()) is None
