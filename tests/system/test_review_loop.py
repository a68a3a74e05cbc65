"""The review loop end to end: cells go out, answers come back, and the next fit knows them."""

import csv
import shlex
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image

from flows.fit import fit
from flows.options.flows import Fit, Retract, Screen
from flows.options.tools import ReviewExport, ReviewImport, ReviewReport
from flows.retract import retract
from flows.settings import Settings
from flows.smears.commands.review.imports import ImportOutcome, import_answers
from flows.smears.commands.review.queue import export, report
from flows.smears.night import screen
from storage.batches.manifests import load_batch, read_manifest
from storage.models.detectors import load_detector_card
from storage.models.statistics import latest_statistics
from storage.smears.answers import latest_labels
from storage.store import Store, StoreError, digest_of
from tasks.images.access.files import SourceError
from tasks.smears.answers.sheets import AnswerError
from tasks.smears.synthetic.rendered_cells import draw_patient, other_stain, red_cell
from tests.support import fitted, images, models

DAY = date(2026, 3, 1)
STAINED, HELD = ("C201P1", "C202P2"), 3


def write_stained(folder: Path, number: int, patient: str, cells: int) -> None:
    """Uninfected cells of another stain, named as NIH names are."""
    rng = np.random.default_rng(number)
    smear = draw_patient(number, rng)
    folder.mkdir(parents=True, exist_ok=True)
    for cell in range(cells):
        name = f"{patient}thinF_IMG_20260301_08000{cell % 3}a_cell_{cell}.png"
        Image.fromarray(other_stain(red_cell(smear, rng, None))).save(folder / name)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ordinary cells; cells of another stain, some of a held-out patient; and noise."""
    folder = tmp_path_factory.mktemp("night")
    images.write_cells(folder, 2, 6, seed=7, first=301)
    for number, patient in enumerate(STAINED):
        write_stained(folder / "stained", number, patient, 6)
    write_stained(folder / "stained", 9, models.HELD_OUT, HELD)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 90, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"C301P1thinF_IMG_20260301_080000a_cell_{number}.png")
    return folder


@pytest.fixture(scope="module")
def _screened(
    tiny_fitted: Settings, night: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    settings = fitted.copied(tiny_fitted, tmp_path_factory.mktemp("screened") / "store")
    screen.fn(Screen(images=str(night), batch="night", date=DAY), settings)
    return settings


@pytest.fixture
def screened(_screened: Settings, tmp_path: Path) -> Settings:
    """Settings of a store of one's own, in which a night was screened."""
    return fitted.copied(_screened, tmp_path / "store")


def truth(row: dict[str, str]) -> str:
    """What a person would say who knows how the night was made."""
    folder = Path(row["uri"]).parent.name
    return {"stained": "Uninfected"}.get(folder, folder if folder in models.CLASSES else "other")


def fill_in(
    sheet: Path, say: Callable[[dict[str, str]], str] = truth, name: str = "done.csv"
) -> Path:
    """The sheet with answers, saved as a spreadsheet in Europe would."""
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    done = sheet.with_name(name)
    with done.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=";")
        writer.writeheader()
        writer.writerows([row | {"answer": say(row), "reader": "Ada"} for row in rows])
    return done


def run(command: str, settings: Settings) -> None:
    """Run a command that an outcome says is next."""
    words = shlex.split(command)
    assert words[0] == "slidewatch"
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options.pop("--store") == settings.store
    given = {name.removeprefix("--"): value for name, value in options.items()}
    if words[1] == "fit":
        fit.fn(Fit(**given), settings)
    else:
        retract.fn(Retract(**given), settings)


def abnormality(settings: Settings, night: Path) -> dict[str, float]:
    """By file, after screening the night again with the newest detector."""
    newest = load_detector_card(Store(settings.store)).name
    wanted = Screen(images=str(night), batch="night", detector=newest, force=True)
    outcome = screen.fn(wanted, settings)
    rows = duckdb.sql(f"SELECT uri, abnormality FROM '{outcome.report}'").fetchall()
    return {uri.partition("/night")[2]: value for uri, value in rows}


def review_all(settings: Settings, folder: Path, **said: Any) -> ImportOutcome:
    out = export(ReviewExport(to=str(folder), batch="night", limit=1000, per_slide=1000), settings)
    return import_answers(ReviewImport(file=str(fill_in(Path(out.sheet), **said))), settings)


@pytest.mark.slow
def test_what_a_person_called_ordinary_is_less_abnormal_after_the_next_fit(
    screened: Settings, night: Path, tmp_path: Path
) -> None:
    before = abnormality(screened, night)
    found = review_all(screened, tmp_path / "out")
    assert found.labels == found.answers["Uninfected"] + found.answers.get("Parasitized", 0)
    assert found.abnormal_other > 0
    (command,) = found.commands
    run(command, screened)

    store = Store(screened.store)
    latest = latest_statistics(store, "tiny")
    assert latest is not None
    added = latest.contributions[-1]
    # A patient of the model's test part stays out, and so does what is no such cell.
    held_out = [
        row for row in latest_labels(store, "night").rows.to_pylist() if row["label"] is not None
    ]
    assert added.held_out == sum(row["patient_id"] == models.HELD_OUT for row in held_out) == HELD
    assert added.images == found.labels - HELD
    manifest = read_manifest(store, load_batch(store, added.batch)).to_pylist()
    assert {row["label"] for row in manifest} <= {*models.CLASSES, None}
    assert sum(row["label"] is None for row in manifest) == found.answers["other"]

    after = abnormality(screened, night)
    stained = [name for name in before if any(patient in name for patient in STAINED)]
    assert len(stained) == 12
    assert all(after[name] < before[name] for name in stained)

    retract.fn(Retract(batch=added.batch), screened)
    restored = abnormality(screened, night)
    assert restored.keys() == before.keys()
    np.testing.assert_allclose(
        [restored[name] for name in before], list(before.values()), rtol=1e-6, atol=1e-6
    )


def test_the_images_of_an_export_are_the_originals_under_safe_names(
    screened: Settings, tmp_path: Path
) -> None:
    out = export(
        ReviewExport(to=str(tmp_path / "out"), batch="night", limit=4, per_slide=1), screened
    )
    with Path(out.sheet).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == out.cells == 4
    values = [float(row["abnormality"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert len({row["slide_id"] for row in rows}) == 4
    assert out.left_out["beyond the limit of their slide"] > 0
    assert "beyond the limit of their slide" in out.text()
    for row in rows:
        content = (tmp_path / "out" / row["image"]).read_bytes()
        assert digest_of(content) == row["image_id"]
        assert content == Path(row["uri"].removeprefix("file://")).read_bytes()
        assert row["answer"] == row["note"] == row["reader"] == ""
    # It may hold answers by now.
    before = Path(out.sheet).read_bytes()
    with pytest.raises(SourceError, match="is there already"):
        export(ReviewExport(to=str(tmp_path / "out"), batch="night"), screened)
    assert Path(out.sheet).read_bytes() == before


def test_an_image_that_is_gone_or_changed_is_named_and_left_out(
    screened: Settings, scheduler: str, night: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(night / "stained", copy)
    screen.fn(Screen(images=str(copy), batch="copy"), screened)
    first, second = sorted(copy.iterdir())[:2]
    first.unlink()
    second.write_bytes(b"another image")
    out = export(ReviewExport(to=str(tmp_path / "out"), batch="copy", per_slide=100), screened)
    assert out.failed
    assert len(out.unreadable) == 2
    assert any("was changed" in each for each in out.unreadable)
    assert out.cells == len(list((tmp_path / "out" / "images").iterdir()))


@pytest.mark.slow
def test_a_second_import_replaces_the_first_and_a_cell_counts_once(
    screened: Settings, night: Path, tmp_path: Path
) -> None:
    store = Store(screened.store)
    first = review_all(screened, tmp_path / "out")
    run(first.commands[0], screened)
    one = first.labels - HELD

    same = import_answers(ReviewImport(file=str(tmp_path / "out" / "done.csv")), screened)
    assert (same.new, same.changed, same.review) == (0, 0, first.review)

    changed = fill_in(
        tmp_path / "out" / "review.csv",
        lambda row: "other" if row["patient_id"] == STAINED[0] else "",
        "again.csv",
    )
    told = import_answers(ReviewImport(file=str(changed), dry_run=True), screened)
    second = import_answers(ReviewImport(file=str(changed)), screened)
    assert (told.new, told.changed, told.labels) == (0, 6, first.labels - 6)
    # Whoever says nothing this time does not take back what was said.
    assert (second.new, second.changed) == (0, 6)
    assert second.labels == first.labels - 6
    assert latest_labels(store, "night").rows.num_rows == sum(first.answers.values())
    take_out, add = second.commands
    assert "retract" in take_out

    with pytest.raises(StoreError, match=r"a cell must count once.*slidewatch retract"):
        run(add, screened)
    run(take_out, screened)
    run(add, screened)
    latest = latest_statistics(store, "tiny")
    assert latest is not None
    assert [each.images for each in latest.contributions[1:]] == [one - 6]
    run(add, screened)  # and the same batch again adds nothing
    again = latest_statistics(store, "tiny")
    assert again is not None
    assert again.images == latest.images
    assert (Path(store.root) / "labels" / "night" / "0001.parquet").exists()


@pytest.mark.slow
def test_a_cell_of_two_nights_is_a_label_in_one(
    screened: Settings, night: Path, tmp_path: Path
) -> None:
    first = review_all(screened, tmp_path / "out")
    screen.fn(Screen(images=str(night / "stained"), batch="dusk"), screened)
    out = export(
        ReviewExport(to=str(tmp_path / "dusk"), batch="dusk", limit=1000, per_slide=1000), screened
    )
    second = import_answers(ReviewImport(file=str(fill_in(Path(out.sheet)))), screened)
    assert second.elsewhere == sum(second.answers.values()) == 12 + HELD
    assert second.labels < first.labels
    assert (second.labels, second.commands) == (0, [])
    assert "of another batch" in second.text()
    assert "nothing to fit" in second.text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("other", "dust", 1), r"done.csv: .*no answer 'dust'"),
        (lambda text: text.replace(";night;", ";first;", 1), "batch"),
        (lambda text: text.replace(";night;", ";../../etc;"), "no batch name"),
        (lambda text: text.replace(";night;", ";nowhere;"), "no batch 'nowhere'"),
        (lambda text: text.replace(";night;", ";first;"), "batch first has no report yet"),
        (lambda text: text + text.splitlines()[-1], "again"),
    ],
)
def test_a_wrong_file_imports_nothing(
    screened: Settings, tmp_path: Path, change: Callable[[str], str], says: str
) -> None:
    out = export(
        ReviewExport(to=str(tmp_path / "out"), batch="night", limit=1000, per_slide=1000), screened
    )
    done = fill_in(Path(out.sheet))
    done.write_text(change(done.read_text()))
    with pytest.raises((AnswerError, StoreError), match=says):
        import_answers(ReviewImport(file=str(done)), screened)
    with pytest.raises(SourceError, match=r"none.csv does not exist"):
        import_answers(ReviewImport(file=str(tmp_path / "none.csv")), screened)
    assert latest_labels(Store(screened.store), "night").number == 0


def test_the_report_says_how_good_the_abnormal_list_is_and_no_reviewed_cell_is_exported_again(
    screened: Settings, tmp_path: Path
) -> None:
    nothing = report(ReviewReport(batch="night"), screened)
    assert nothing.precision is None
    assert "no imported answer is of an abnormal cell" in nothing.text()
    found = review_all(screened, tmp_path / "out")
    more = export(ReviewExport(to=str(tmp_path / "more"), batch="night"), screened)
    assert (more.cells, more.left_out) == (0, {"reviewed before": sum(found.answers.values())})
    again = report(ReviewReport(batch="night"), screened)
    assert (again.figures[0].name[:3], again.figures[0].value, again.damaged) == ("Ada", None, [])
    told = again.model_dump(exclude={"figures", "damaged", "patients"})
    assert told == {name: getattr(found, name) for name in told}
    assert again.precision is not None
    assert again.precision_low < again.precision <= again.precision_high
    assert f"precision {again.precision:.2f}" in again.text()


def test_labels_without_a_patient_are_warned_of(screened: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "anonymous"
    folder.mkdir()
    smear, rng = draw_patient(5, np.random.default_rng(5)), np.random.default_rng(5)
    for number in range(4):
        Image.fromarray(other_stain(red_cell(smear, rng, None))).save(folder / f"{number}.png")
    screen.fn(Screen(images=str(folder), batch="anonymous"), screened)
    out = export(ReviewExport(to=str(tmp_path / "out"), batch="anonymous"), screened)
    found = import_answers(
        ReviewImport(file=str(fill_in(Path(out.sheet), lambda row: "Uninfected"))), screened
    )
    assert found.without_patient == found.labels > 0
    assert "without a patient" in found.text()
