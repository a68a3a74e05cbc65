"""Commands on a batch whose report is not of its latest attempt, or that has no images."""

import csv
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from flows.commands.contours import contours
from flows.commands.review.queue import export, import_answers, report
from flows.options.tools import Contours, ReviewExport, ReviewImport, ReviewReport
from flows.settings import Settings
from storage.batches.manifests import Batch
from storage.reports.tables import FIELDS, IMAGES, SLIDES
from storage.store import Store, digest_of
from tasks.answers.sheets import AnswerError
from tasks.images.manifest import SCHEMA
from tests.support.batches import freeze
from tests.support.reports import publish_rows

DAY, WHEN = date(2026, 3, 1), datetime(2026, 3, 1, 6, tzinfo=UTC)
SLIDE = "/slides/a.tiff"


def begin(store: Store, rows: list[dict[str, Any]], attempt: int) -> Batch:
    table = pa.Table.from_pylist(rows, SCHEMA)
    return freeze(store, table, attempt=attempt, shard_rows=8, batch_date=DAY, started_at=WHEN)


def publish(store: Store, batch: Batch, rows: list[dict[str, Any]]) -> None:
    field = {"source_uri": SLIDE, "kind": "field", "x": 0, "y": 0, "width": 100, "height": 100}
    for kind, told in ((IMAGES, rows), (SLIDES, []), (FIELDS, [field | {"cells": 1}])):
        publish_rows(store, kind, told, DAY, attempt=batch.attempt)


def published_and_forced(store: Store, cell: Path) -> None:
    """A batch whose first attempt is published, and whose second has other images."""
    Image.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(cell)
    row = {"uri": str(cell), "source_uri": SLIDE, "x": 5, "y": 5}
    first = begin(store, [row | {"outline": [0.0, 0.0, 4.0, 0.0, 4.0, 4.0]}], 1)
    told = {"image_id": digest_of(cell.read_bytes()), "batch": "night", "model": "m"}
    told |= {"status": "scored", "verdict": "review", "abnormality": 3.0, "width": 9, "height": 9}
    publish(store, first, [row | told])
    other = {"uri": str(cell.with_name("other.png")), "source_uri": SLIDE}
    begin(store, [other, other | {"uri": "another.png"}], 2)


def test_contours_are_of_the_attempt_that_is_published(store: Store, tmp_path: Path) -> None:
    published_and_forced(store, tmp_path / "cell.png")
    settings = Settings(store=store.url)
    found = contours(Contours(batch="night", to=str(tmp_path / "to")), settings)
    assert (found.files, found.cells) == (1, 1)


def test_cells_for_review_are_of_the_attempt_that_is_published(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_and_forced(store, tmp_path / "cell.png")
    monkeypatch.setattr("flows.commands.review.queue.write_picture", lambda *_: "cell.png")
    out = export(ReviewExport(to=str(tmp_path / "out"), batch="night"), Settings(store=store.url))
    assert out.cells == 1


def test_slides_that_a_person_looks_at_as_a_whole_come_once_the_furthest_first(
    store: Store, tmp_path: Path
) -> None:
    publish(store, begin(store, [], 1), [])
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
    publish(store, begin(store, [], 1), [])
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
