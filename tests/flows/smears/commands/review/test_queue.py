"""Commands on a batch whose report is not of its latest attempt, or that has no images."""

import csv
from pathlib import Path

import pytest

from flows.options.tools import Contours, ReviewExport, ReviewImport, ReviewReport
from flows.settings import Settings
from flows.smears.commands.contours import contours
from flows.smears.commands.review.imports import import_answers
from flows.smears.commands.review.queue import export, report
from storage.reports.tables import SLIDES
from storage.store import Store
from tasks.smears.answers.sheets import AnswerError
from tests.support.forced import publish, published_and_forced
from tests.support.reading import DAY, frozen
from tests.support.reports import publish_rows


def test_contours_are_of_the_attempt_that_is_published(store: Store, tmp_path: Path) -> None:
    published_and_forced(store, tmp_path / "cell.png")
    settings = Settings(store=store.url)
    found = contours(Contours(batch="night", to=str(tmp_path / "to")), settings)
    assert found.files == 1


def test_cells_for_review_are_of_the_attempt_that_is_published(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_and_forced(store, tmp_path / "cell.png")
    monkeypatch.setattr(
        "flows.smears.commands.review.queue.read_picture", lambda *_: ("cell.png", b"")
    )
    out = export(ReviewExport(to=str(tmp_path / "out"), batch="night"), Settings(store=store.url))
    assert out.cells == 1


def test_slides_that_a_person_looks_at_as_a_whole_come_once_the_furthest_first(
    store: Store, tmp_path: Path
) -> None:
    publish(store, frozen(store, []), [])
    rows = [
        {"slide_id": "near", "verdict": "review", "shift": 0.5, "review_reasons": ["few cells"]},
        {"slide_id": "good", "verdict": "accept", "shift": 0.1, "review_reasons": []},
        {
            "slide_id": "=far",
            "verdict": "review",
            "shift": 7.0,
            "review_reasons": ["shifted", "many uncertain"],
        },
    ]
    publish_rows(store, SLIDES, rows, DAY)
    out = export(ReviewExport(to=str(tmp_path / "out"), batch="night"), Settings(store=store.url))
    assert out.slides == 2
    assert "2 to look at as a whole" in out.text()
    with (tmp_path / "out" / "slides.csv").open(encoding="utf-8-sig", newline="") as file:
        told = list(csv.DictReader(file))
    assert [row["slide_id"] for row in told] == ["'=far", "near"]
    assert told[0]["review_reasons"] == "shifted, many uncertain"


def test_a_night_without_images_has_nothing_to_review(store: Store, tmp_path: Path) -> None:
    publish(store, frozen(store, []), [])
    settings = Settings(store=store.url)
    out = export(ReviewExport(to=str(tmp_path / "out"), batch="night"), settings)
    assert (out.cells, out.left_out, out.failed) == (0, {}, False)
    assert report(ReviewReport(batch="night"), settings).precision is None
    sheet = Path(out.sheet)
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.DictReader(file)) == []
    sheet.write_text("image_id,batch,answer\n00,night,other\n")
    with pytest.raises(AnswerError, match=r"review\.csv: batch night has no images"):
        import_answers(ReviewImport(file=str(sheet)), settings)
