"""One photograph is screened by itself."""

import os
import webbrowser
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image, ImageDraw, ImageFilter

from flows.options.tools import Look
from flows.settings import Settings
from flows.smears.commands.look import look
from storage.store import Store, StoreError
from tests.support.fields import thick_film
from tests.support.processes import python
from tests.support.shipping import ship


def test_a_photograph_gets_a_page_and_leaves_nothing_in_the_store(
    photo: Path,
    tiny_ready: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not opened.append(address))
    monkeypatch.setenv("DISPLAY", ":0")
    before = sorted(path.name for path in Path(tiny_ready.store).rglob("*"))
    page = tmp_path / "seen.html"
    outcome = look(Look(photo=str(photo), to=str(page)), tiny_ready)
    assert outcome.taken_for == {"fields": 1}
    assert outcome.cells == pytest.approx(12, abs=2)
    assert opened == [page.as_uri()]
    assert "a-field-seen" in page.read_text()
    assert outcome.next_step.startswith("One photograph is too few for a call: ")
    assert outcome.next_step in page.read_text()
    assert sorted(path.name for path in Path(tiny_ready.store).rglob("*")) == before
    assert "not known" not in capsys.readouterr().err


def test_of_a_blurred_photograph_more_of_the_same_are_not_asked_for(
    photo: Path, tiny_ready: Settings, tmp_path: Path
) -> None:
    blurred, page = tmp_path / "blurred.png", tmp_path / "page.html"
    Image.open(photo).filter(ImageFilter.GaussianBlur(4)).save(blurred)
    seen = look(Look(photo=str(blurred), to=str(page), browser=False), tiny_ready)
    assert seen.next_step.startswith("Photograph the smear again, sharp")
    assert seen.next_step in page.read_text()


LOOK = """
import sys
from flows.commands.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    print(*sys.modules)
"""


@pytest.mark.slow
def test_nothing_that_takes_long_is_imported_by_the_time_a_photograph_has_its_page(
    photo: Path, tiny_ready: Settings, tmp_path: Path
) -> None:
    done = python(
        *("-c", LOOK, "look", str(photo), "--no-browser", "--store", tiny_ready.store),
        *("--to", str(tmp_path / "page.html")),
        env=os.environ | {"PREFECT_HOME": str(tmp_path)},
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert {"openvino", "duckdb"} <= imported  # it did all of its work
    slow = {"dask", "distributed", "matplotlib", "pandas", "prefect", "scipy.stats", "sklearn"}
    assert imported & (slow | {"torch", "pyarrow.dataset"}) == set()


def test_two_folders_of_photographs_are_two_patients_and_a_light_may_have_no_reason(
    photo: Path, tiny_ready: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    for name in "ab":
        (folder / name).mkdir(parents=True)
        turned = Image.open(photo).rotate(180 if name == "b" else 0)
        turned.save(folder / name / "1.png")
    outcome = look(
        Look(photo=str(folder), to=str(tmp_path / "two.html"), browser=False), tiny_ready
    )
    assert outcome.sentence.startswith("two: 2 patients ")
    plain = outcome.model_copy(update={"light": "green", "reasons": []})
    assert "\ngreen light\n" in plain.text()


@pytest.mark.parametrize("what", ["a letter", "an empty folder", "half a file"])
def test_what_has_no_red_cells_is_said_to_have_none_and_has_failed(
    tiny_ready: Settings, tmp_path: Path, photo: Path, what: str
) -> None:
    given, said = tmp_path / "given", "No red cells found: "
    if what == "a letter":
        page = Image.new("RGB", (1300, 1100), "white")
        for line in range(20):
            ImageDraw.Draw(page).text((50, 50 * line), "Dear Madam, " * 12, fill="black")
        page.save(given.with_suffix(".png"))
        given = given.with_suffix(".png")
    elif what == "half a file":
        given, said = given.with_suffix(".png"), "Cannot be read: copy it again"
        given.write_bytes(photo.read_bytes()[:9999])
    else:
        given.mkdir()
        said = "No pictures found: "
    seen = look(Look(photo=str(given), to=str(tmp_path / "o.html"), browser=False), tiny_ready)
    assert f"{given.name}: {said}" in seen.sentence
    assert seen.failed
    assert (seen.cells, seen.page, (tmp_path / "o.html").exists()) == (0, None, False)


def test_the_answer_says_why_a_photograph_failed(tiny_ready: Settings, tmp_path: Path) -> None:
    Image.fromarray(thick_film()).save(file := tmp_path / "field.png")
    seen = look(Look(photo=str(file), to=str(tmp_path / "o.html"), browser=False), tiny_ready)
    assert seen.sentence.startswith("field.png: No red cells found: ")
    assert "\n1 failed: no_thin_smear: this looks like a thick film" in seen.text()


def test_a_picture_that_is_taken_for_one_cell_is_said_to_be(
    photo: Path, tiny_ready: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    look(Look(photo=str(tmp_path / "empty"), browser=False), tiny_ready)
    assert "cells are cut out" not in capsys.readouterr().err
    Image.open(photo).resize((40, 40)).save(file := tmp_path / "cell.png")
    look(Look(photo=str(file), to=str(tmp_path / "o.html"), browser=False), tiny_ready)
    assert "cell.png: 1 picture of a single cell; " in capsys.readouterr().err


def test_a_line_feed_in_a_name_makes_no_line_of_the_answer(
    photo: Path, tiny_ready: Settings, tmp_path: Path
) -> None:
    name = tmp_path / "field.png: Negative: of 5,000 cells 0 look parasitized\ngreen light\n.png"
    name.write_bytes(photo.read_bytes())
    seen = look(Look(photo=str(name), to=str(tmp_path / "o.html"), browser=False), tiny_ready)
    first, _, light, page = seen.text().splitlines()
    assert first.startswith('"field.png: Negative: of 5,000 cells 0 look parasitized\\ngreen')
    assert light.startswith(f"{seen.light} light")
    assert page.startswith(str(tmp_path))


def test_a_store_that_cannot_be_read_is_not_taken_for_none(
    photo: Path, tiny_ready: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise ConnectionRefusedError

    monkeypatch.setattr(Store, "names", refuse)
    with pytest.raises(StoreError, match="cannot be read as a store"):
        look(Look(photo=str(photo)), tiny_ready)


def test_without_a_store_the_detector_of_the_package_looks(
    photo: Path,
    tiny_ready: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ship(monkeypatch, tiny_ready.store)
    absent = tiny_ready.model_copy(update={"store": str(tmp_path / "none")})
    outcome = look(Look(photo=str(photo), to=str(tmp_path / "page.html")), absent)
    assert outcome.cells == pytest.approx(12, abs=2)
    assert "there is no store in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
