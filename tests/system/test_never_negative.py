"""No infected patient is called negative, however coarsely their blood was photographed."""

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.night import screen
from tests.benchmarks.trials import commission_known
from tests.support.needs import needs_data
from tests.support.paths import DATA

SIZES = (1.0, 3 / 4, 1 / 2, 3 / 8, 1 / 4)
BLURS = (0.0, 1.2)
PARASITES = {"ring", "trophozoite", "schizont", "gametocyte", "infected"}
FIELDS = 4  # of a patient
SLIDES = 12  # without a marked parasite
COPY = 12  # pixels that a second photograph of a field is narrower

Fields = list[tuple[ZipFile, str]]


def vivax(infected: bool) -> Fields:
    """Fields of one laboratory with most parasites, or with none."""
    archive = ZipFile(DATA / "vivax_fields.zip")
    images = json.loads(archive.read("vivax_fields/cells.json"))
    return ranked(archive, {each["image"]: each["cells"] for each in images}, infected)


def bbbc041(infected: bool) -> Fields:
    """The same of another one."""
    archive = ZipFile(DATA / "laboratories.zip")
    cells = json.loads(archive.read("laboratories/cells.json"))
    of_set = {name: each for name, each in cells.items() if name.startswith("bbbc041/")}
    return ranked(archive, of_set, infected)


def ranked(archive: ZipFile, cells: dict[str, list[Any]], infected: bool) -> Fields:
    """Fields with parasites, those with the most first, or fields without any."""
    parasites = {name: sum(c[0] in PARASITES for c in each) for name, each in cells.items()}
    chosen = [name for name, n in parasites.items() if bool(n) == infected]
    inside = {name.rpartition("/")[2]: name for name in archive.namelist()}
    names = sorted(chosen, key=lambda name: (-parasites[name], name))
    return [(archive, inside[name.rpartition("/")[2]]) for name in names]


def photograph(folder: Path, fields: Fields, size: float, blur: float, *, twice: bool) -> None:
    """Write fields as they would have been photographed, once or twice."""
    folder.mkdir(parents=True)
    for number, (archive, name) in enumerate(fields):
        picture = Image.open(BytesIO(archive.read(name))).convert("RGB")
        width, height = (round(each * size) for each in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        if blur:
            picture = picture.filter(ImageFilter.GaussianBlur(blur))
        picture.save(folder / f"{number}.jpg", quality=92)
        if twice:
            picture.resize((width - COPY, height)).save(folder / f"{number}-again.jpg", quality=92)


def patients(
    folder: Path, fields: Fields, sizes: tuple[float, ...] = SIZES
) -> Iterator[tuple[str, float]]:
    """Write patients of `FIELDS` fields at all sizes, sharp and blurred, once and twice."""
    for place, size in enumerate(sizes):
        for blur in BLURS:
            for twice in (False, True):
                some = fields[(place % 2) * FIELDS : (place % 2 + 1) * FIELDS]
                name = f"size {size:.3f} blur {blur} {'twice' if twice else 'once'}"
                photograph(folder / name, some, size, blur, twice=twice)
                yield name, size


def calls(settings: Settings, images: Path, batch: str, **given: str) -> dict[str, str]:
    """Screen a folder of patients; the call of each."""
    report = screen.fn(Screen(images=str(images), batch=batch, **given), settings).report
    rows = pq.read_table(report.replace("/images/", "/patients/")).to_pylist()
    undecided = [row for row in rows if row["call"] not in ("positive", "negative")]
    assert all(row["corrected_percent"] is None for row in undecided)
    return {row["patient_id"] or row["slide_id"]: row["call"] for row in rows}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=str(tmp_path / "store"), workers=2)


@needs_data("vivax_fields.zip")
def test_nobody_infected_is_negative_with_the_detector_that_comes_along(
    settings: Settings, tmp_path: Path
) -> None:
    written = dict(patients(tmp_path / "night", vivax(True)[:FIELDS], SIZES[2:3]))
    found = calls(settings, tmp_path / "night", "night")
    assert len(found) == len(written) == 4
    assert "negative" not in found.values()


@pytest.mark.slow
@needs_data("vivax_fields.zip")
@needs_data("laboratories.zip")
@pytest.mark.parametrize("fields", [vivax, bbbc041])
def test_nobody_infected_is_negative_at_any_size(
    settings: Settings, tmp_path: Path, fields: Callable[[bool], Fields]
) -> None:
    """Neither at a new laboratory, nor where its negative slides are known."""
    infected, healthy = fields(True)[: 2 * FIELDS], fields(False)
    written = dict(patients(tmp_path / "night", infected))
    found = calls(settings, tmp_path / "night", "night")
    print(found)
    assert len(found) == len(written) == 20
    assert "negative" not in found.values()

    for number in range(SLIDES):  # some fields without a box have parasites: these are refused
        some, slide = healthy[number::SLIDES], f"healthy {number}"
        photograph(tmp_path / "known" / slide, some, 1.0, 0.0, twice=False)
    commission_known(tmp_path, settings)
    found = calls(settings, tmp_path / "night", "there", detector="lab")
    assert "negative" not in found.values()
