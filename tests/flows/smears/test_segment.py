"""From photographs and slides to a manifest of cells, and from that to a report."""

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from geojson_pydantic import FeatureCollection
from PIL import Image

from flows.options.flows import Screen, Segment
from flows.options.tools import Contours
from flows.settings import Settings
from flows.smears.commands.contours import contours
from flows.smears.night import screen
from flows.smears.segment import FinderError, SegmentOutcome, segment
from storage.smears.segmentations import FIELD_SCHEMA, segmentation_of
from storage.store import Store, StoreError
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images
from tasks.images.regions import find, image_refs
from tests.support.dicom import write_dicom_slide
from tests.support.fields import rendered
from tests.support.rendered_slides import RenderedSlide

DAY = date(2026, 3, 1)
CELLS = 14


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides' fields."""
    folder = tmp_path_factory.mktemp("fields")
    for number, slide in enumerate(("s1", "s1", "s2")):
        path = folder / slide / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        drawn = rendered(number, cells=CELLS, overlapping=0.2, height=700, width=900)
        Image.fromarray(drawn.pixels).save(path)
    return folder


@pytest.fixture
def settings(scheduler: str, tmp_path: Path) -> Settings:
    return Settings(store=str(tmp_path / "store"), cluster="scheduler", scheduler=scheduler)


def manifest_of(outcome: SegmentOutcome) -> pa.Table:
    return pq.read_table(outcome.manifest)


def fields_of(settings: Settings, name: str) -> list[dict[str, Any]]:
    table = pq.read_table(f"{settings.store}/segmentations/{name}/fields.parquet")
    assert table.schema.equals(FIELD_SCHEMA)
    return list(table.to_pylist())


def test_each_cell_of_each_field_is_a_row(fields: Path, settings: Settings) -> None:
    outcome = segment.fn(Segment(images=str(fields), name="night"), settings)
    assert outcome.fields == {"field": 3}
    assert "fields     3\n" in outcome.text()
    table = manifest_of(outcome)
    assert table.num_rows == outcome.images
    assert outcome.images == pytest.approx(3 * CELLS, abs=3)
    assert set(table["slide_id"].to_pylist()) == {"s1", "s2"}
    assert set(table["kind"].to_pylist()) == {"red"}
    assert table["touches_border"].to_pylist().count(True) >= 1
    for ref in image_refs(table):
        lit = np.asarray(find(ref).image()).any(axis=2)
        assert 0.4 < lit.mean() < 0.95
    rows = {Path(row["source_uri"]).name: row for row in fields_of(settings, "night")}
    assert sum(row["cells"] for row in rows.values()) == outcome.images
    assert rows["0.png"]["diameter"] == pytest.approx(130, rel=0.1)
    assert rows["0.png"]["sharpness"] > 0
    again = segment.fn(Segment(images=str(fields), name="night"), settings)
    assert again.repeated
    assert "nothing to do" in again.text()


def test_other_options_are_another_segmentation(fields: Path, settings: Settings) -> None:
    segment.fn(Segment(images=str(fields), name="night"), settings)
    with pytest.raises(StoreError, match=r"started on .* with other options"):
        segment.fn(Segment(images=str(fields), name="night", microns_per_pixel=0.1), settings)
    with pytest.raises(StoreError, match="or choose another name"):
        segment.fn(Segment(images=str(fields / "s1"), name="night"), settings)
    with pytest.raises(StoreError, match="slide is folder"):
        segment.fn(Segment(images=str(fields), name="night", slide_is="file"), settings)


def test_what_cannot_be_read_is_a_row_that_says_why(
    fields: Path, tmp_path: Path, settings: Settings, slide: Path
) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(fields / "s2", folder)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.svs").write_bytes(b"no slide at all")
    good = (folder / "2.png").read_bytes()
    (folder / "short.png").write_bytes(good[: len(good) // 2])
    whole = slide.read_bytes()
    (folder / "short.tif").write_bytes(whole[: len(whole) // 3])
    (folder / "not.mrxs").write_bytes(good)
    deep = np.full((64, 64), 40_000, np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    Image.new("RGB", (300, 200), (240, 238, 225)).save(folder / "blank.png")
    outcome = segment.fn(Segment(images=str(folder), name="night"), settings)
    assert "the manifest has a row for each" in outcome.problem
    assert outcome.sources == 8
    failed = {
        Path(row["uri"]).name: row["failure"].partition(":")[0]
        for row in manifest_of(outcome).to_pylist()
        if row["failure"]
    }
    assert failed.pop("short.tif") in {"damaged", "not_an_image", "unreadable"}
    assert failed == {
        "empty.png": "empty",
        "text.svs": "not_an_image",
        "short.png": "damaged",
        "not.mrxs": "not_an_image",
        "blank.png": "no_thin_smear",
        "deep.png": "no_thin_smear",  # which can be read
    }
    assert outcome.images == pytest.approx(CELLS, abs=1)


def test_a_slide_without_magnification_is_refused_unless_it_is_given(
    slide: Path, settings: Settings, tmp_path: Path
) -> None:
    import tifffile

    bare = tmp_path / "bare.tif"
    with tifffile.TiffFile(slide) as file:
        pixels = file.asarray(level=0)[:1024, :1024]
    tifffile.imwrite(bare, pixels, tile=(256, 256), photometric="rgb")
    unknown = segment.fn(Segment(images=str(bare), name="night"), settings)
    assert "unknown_magnification" in unknown.problem
    given = segment.fn(Segment(images=str(bare), name="given", microns_per_pixel=0.13), settings)
    assert given.fields


def test_a_slide_is_searched_field_by_field_and_no_cell_is_found_twice(
    slide: Path, settings: Settings
) -> None:
    outcome = segment.fn(Segment(images=str(slide), name="slide"), settings)
    rows = fields_of(settings, "slide")
    assert len({(row["x"], row["y"]) for row in rows}) == len(rows) == sum(outcome.fields.values())
    table = manifest_of(outcome)
    assert set(table["slide_id"].to_pylist()) == {slide.stem}
    middles = np.array(
        [(r["x"] + r["width"] / 2, r["y"] + r["height"] / 2) for r in table.to_pylist()]
    )
    away = np.abs(middles[:, None] - middles).max(axis=2) + 1e9 * np.eye(len(middles))
    assert away.min() > 0.25 * rows[0]["diameter"]
    for ref in image_refs(table.slice(0, 20)):
        assert max(find(ref).image().size) == pytest.approx(130, rel=0.5)


def test_one_photograph_and_several_folders_are_sources(fields: Path, settings: Settings) -> None:
    one = segment.fn(Segment(images=str(fields / "s1" / "0.png"), name="one"), settings)
    assert (one.sources, one.fields) == (1, {"field": 1})
    folders = [str(fields / "s1"), str(fields / "s2")]
    both = segment.fn(Segment(images=folders, name="both"), settings)
    whole = segment.fn(Segment(images=str(fields), name="whole"), settings)
    assert manifest_of(both).equals(manifest_of(whole))  # slides are named below both
    assert segment.fn(Segment(images=folders, name="both"), settings).repeated
    with pytest.raises(StoreError, match="was started on"):
        segment.fn(Segment(images=folders[::-1], name="both"), settings)


def test_a_folder_of_photographs_is_one_patient_and_loose_ones_are_counted_aloud(
    fields: Path, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    def slides(name: str, source: str = "ann") -> set[str]:
        found = segment.fn(Segment(images=str(tmp_path / source), name=name), settings)
        return set(manifest_of(found)["slide_id"].to_pylist())

    shutil.copytree(fields / "s1", tmp_path / "ann")
    assert slides("all") == slides("one", "ann/0*.png") == slides("each", "ann/*.png") == {"ann"}
    assert "2 photographs in one folder: taken for one patient, ann" in capsys.readouterr().err
    shutil.copytree(fields / "s1", tmp_path / "ann" / "bob")
    assert slides("three") == {"0", "1", "bob"}
    told = "1 folder of photographs and 2 photographs outside them: taken for 3 patients"
    assert told in capsys.readouterr().err


def test_the_levels_of_a_dicom_slide_are_one_source(tmp_path: Path, settings: Settings) -> None:
    rows, columns = np.indices((700, 900))
    pixels = np.stack([rows % 256, columns % 256, 120 + 0 * rows], axis=2).astype(np.uint8)
    files = write_dicom_slide(tmp_path / "night", pixels, levels=3)
    outcome = segment.fn(Segment(images=str(tmp_path / "night"), name="dicom"), settings)
    assert outcome.sources == 1
    assert {row["source_uri"] for row in fields_of(settings, "dicom")} == {files[0].as_uri()}


def test_a_finder_of_ones_own(
    fields: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = "tests.support.finders:upper_half"
    own = segment.fn(Segment(images=str(fields), name="own", finder=finder), settings)
    ours = segment.fn(Segment(images=str(fields), name="ours"), settings)
    assert 0 < own.images < ours.images
    broken = "tests.support.finders:broken"
    made = segment.fn(Segment(images=str(fields), name="broken", finder=broken), settings)
    assert "unreadable" in made.problem
    failed = [row for row in fields_of(settings, "broken") if row["failure"]]
    assert len(failed) == 3
    assert failed[0]["failure"] == "unreadable: RuntimeError: no weights"


def test_a_cell_that_is_found_twice_is_one_image(
    fields: Path, settings: Settings, tmp_path: Path
) -> None:
    # A photograph alone on its slide is measured by the finder itself.
    alone = Segment(images=str(fields), name="once", slide_is="file")
    once = segment.fn(alone, settings)
    finder = "tests.support.finders:twice"
    found = segment.fn(alone.model_copy(update={"name": "twice", "finder": finder}), settings)
    assert found.images == once.images
    assert list_images(found.manifest).num_rows == once.images
    cells = [row["cells"] for row in fields_of(settings, "twice")]
    assert cells == [row["cells"] for row in fields_of(settings, "once")]


def test_regions_are_not_cut_up_again(fields: Path, settings: Settings) -> None:
    first = segment.fn(Segment(images=str(fields), name="first"), settings)
    with pytest.raises(StoreError, match="lists regions already"):
        segment.fn(Segment(images=first.manifest, name="second"), settings)


def test_an_empty_folder_needs_a_person(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "none").mkdir()
    outcome = segment.fn(Segment(images=str(tmp_path / "none"), name="none"), settings)
    assert outcome.failed
    assert "no photographs or slides" in outcome.problem


def test_names_of_slides_do_not_say_where_a_folder_a_glob_or_a_manifest_lies(
    fields: Path, tmp_path: Path, settings: Settings
) -> None:
    odd = tmp_path / "a::b"
    shutil.copytree(fields / "s1", odd / "s1")
    made = segment.fn(Segment(images=str(odd), name="odd"), settings)
    assert set(manifest_of(made)["slide_id"].to_pylist()) == {"s1"}
    folder = tmp_path / "night"
    shutil.copytree(fields, folder)
    made = segment.fn(Segment(images=f"{folder}/*/*.png", name="glob"), settings)
    assert set(manifest_of(made)["slide_id"].to_pylist()) == {"s1", "s2"}
    sheet = folder / "sources.csv"
    sheet.write_text("uri,source_uri,slide_id\ns1/0.png,,\nsecond,s1/1.png,\ns2/2.png,,007\n")
    listed = segment.fn(Segment(images=str(sheet), name="listed"), settings)
    assert set(manifest_of(listed)["slide_id"].to_pylist()) == {"s1", "007"}


def test_cells_of_fields_are_screened_like_any_others(
    fields: Path, tiny_ready: Settings, tmp_path: Path
) -> None:
    made = segment.fn(Segment(images=str(fields), name="night"), tiny_ready)
    assert segmentation_of(Store(tiny_ready.store), made.manifest) == "night"
    outcome = screen.fn(Screen(images=made.manifest, batch="night", date=DAY), tiny_ready)
    assert (outcome.images, outcome.scored) == (made.images, made.images)
    rows = pq.read_table(outcome.report).to_pylist()
    manifest = {row["uri"]: row for row in manifest_of(made).to_pylist()}
    for row in rows:
        told = manifest[row["uri"]]
        for name in ("source_uri", "x", "y", "width", "height", "kind", "touches_border"):
            assert row[name] == told[name]
    assert len({row["image_id"] for row in rows}) == len(rows)
    fields_report = outcome.report.replace("/images/", "/fields/")
    told = {Path(row["source_uri"]).name: row for row in pq.read_table(fields_report).to_pylist()}
    assert sum(row["images"] for row in told.values()) == made.images
    slides = pq.read_table(outcome.report.replace("/images/", "/slides/")).to_pylist()
    assert [(row["slide_id"], row["fields"], row["fields_read"]) for row in slides] == [
        ("s1", 2, 2),
        ("s2", 1, 1),
    ]
    assert sum(row["red_cells"] for row in slides) == made.images
    page = Path(outcome.page).read_text()
    assert "changed since" not in page
    assert "cannot be read" not in page
    assert page.count('<div class="photo">') == 3
    written = contours(Contours(batch="night", to=str(tmp_path / "contours")), tiny_ready)
    assert written.files == 3
    for file in (tmp_path / "contours").iterdir():
        collection = FeatureCollection.model_validate_json(file.read_bytes())
        kinds = [feature.properties["objectType"] for feature in collection.features]
        source = file.name.removesuffix(".geojson").partition("-")[2]
        assert kinds.count("detection") == told[source]["cells"]
        assert kinds.count("annotation") == 1
    assert sorted(p.name for p in (tmp_path / "contours").iterdir()) == [
        f"{slide}-{n}.png.geojson" for n, slide in enumerate(("s1", "s1", "s2"))
    ]


def test_contours_have_the_names_of_their_files_whatever_these_are(
    fields: Path, tmp_path: Path, tiny_ready: Settings
) -> None:
    folder = tmp_path / "named"
    long = "ä" * 120 + ".png"  # 244 bytes
    for name in ("a::b.png", "c#1.png", long):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(fields / "s1" / "0.png", folder / name)
    made = segment.fn(Segment(images=str(folder), name="named", slide_is="file"), tiny_ready)
    assert set(manifest_of(made)["slide_id"].to_pylist()) == {"a::b", "c#1", "ä" * 120}
    screen.fn(Screen(images=made.manifest, batch="named", date=DAY), tiny_ready)
    assert contours(Contours(batch="named", to=str(tmp_path / "to")), tiny_ready).files == 3
    names = {path.name for path in (tmp_path / "to").iterdir()}
    of_folder = {"named-a::b.png.geojson", "named-c#1.png.geojson"}
    assert names == {*of_folder, "ä" * 108 + ".png.geojson"}


def test_the_failed_ones_are_in_the_report(
    fields: Path, tmp_path: Path, tiny_ready: Settings
) -> None:
    folder = tmp_path / "some"
    shutil.copytree(fields / "s2", folder)
    (folder / "empty.png").write_bytes(b"")
    made = segment.fn(Segment(images=str(folder), name="night"), tiny_ready)
    assert made.failed
    outcome = screen.fn(Screen(images=made.manifest, batch="night", date=DAY), tiny_ready)
    assert outcome.failures == {"empty": 1}
    rows = pq.read_table(outcome.report).to_pylist()
    (row,) = (row for row in rows if row["status"] == "failed")
    assert row["uri"].endswith("empty.png")
    assert row["failure"] == "empty: the file has no bytes"


def test_a_slide_is_screened_and_shown_from_afar(
    slide: Path, rendered_slide: tuple[Path, RenderedSlide], tiny_ready: Settings
) -> None:
    drawn = rendered_slide[1]
    made = segment.fn(Segment(images=str(slide.parent / "*.tif"), name="slides"), tiny_ready)
    assert made.images == pytest.approx(drawn.cells, rel=0.05)
    outcome = screen.fn(Screen(images=made.manifest, batch="slides", date=DAY), tiny_ready)
    assert outcome.scored == made.images
    (row,) = pq.read_table(outcome.report.replace("/images/", "/slides/")).to_pylist()
    fields = pq.read_table(outcome.report.replace("/images/", "/fields/")).to_pylist()
    assert row["fields"] == len(fields)
    assert row["fields_read"] == made.fields["field"]
    assert dict(row["exclusions"]) == {k: n for k, n in made.fields.items() if k != "field"}
    page = Path(outcome.page).read_text()
    assert "cannot be read" not in page
    assert page.count('<div class="photo">') == min(8, made.fields["field"])
    assert page.count(" as a whole, ") == 1


@pytest.mark.slow
def test_a_field_that_kills_workers_is_a_row_and_the_others_are_cut_up(
    fields: Path, tmp_path: Path
) -> None:
    settings = Settings(store=str(tmp_path / "store"), workers=2)
    poison, folder = "tests.support.finders:poison", shutil.copytree(fields, tmp_path / "fields")
    Image.new("RGB", (300, 200), (240, 238, 225)).save(folder / "s2" / "blank.png")
    made = segment.fn(Segment(images=str(folder), name="night", finder=poison), settings)
    assert "1 killed_worker" in made.problem
    rows = {Path(row["source_uri"]).name: row for row in fields_of(settings, "night")}
    assert rows["blank.png"]["failure"].startswith("killed_worker: ")
    found = sum(row["cells"] for row in rows.values())
    assert found == pytest.approx(3 * CELLS, abs=2)


def test_a_deployment_names_no_code_that_its_worker_has_not_allowed(
    fields: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may start a deployment must not choose what its worker imports."""
    own = "tests.support.finders:upper_half"
    monkeypatch.setattr("flows.smears.segment.in_deployment", lambda: True)
    allowed_by_the_caller = settings.model_copy(update={"finders": [own]})
    with pytest.raises(FinderError, match="'finders' in the settings of this machine's worker"):
        segment.fn(Segment(images=str(fields), name="own", finder=own), allowed_by_the_caller)
    monkeypatch.setenv("SLIDEWATCH_FINDERS", f'["{own}"]')
    with pytest.raises(SourceError, match="nowhere"):  # which is looked at next
        segment.fn(Segment(images="nowhere", name="own", finder=own), settings)


def test_whole_red_cells_of_a_healthy_persons_field_are_healthy(
    fields: Path, settings: Settings, tmp_path: Path
) -> None:
    for label in ("Uninfected", "Parasitized"):
        (tmp_path / "labelled" / label).mkdir(parents=True)
        shutil.copy(fields / "s1" / "0.png", tmp_path / "labelled" / label)
    outcome = segment.fn(Segment(images=str(tmp_path / "labelled"), name="labelled"), settings)
    rows = manifest_of(outcome).to_pylist()
    assert {row["label"] for row in rows if "Parasitized" in row["uri"]} == {None}
    healthy = {(row["label"], row["touches_border"]) for row in rows if "Uninfected" in row["uri"]}
    assert ("Uninfected", False) in healthy
    assert ("Uninfected", True) not in healthy
