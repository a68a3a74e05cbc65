"""One command for cells, photographs of fields and slides."""

import shutil
import zipfile
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.options.flows import Nightly, Screen, Segment
from flows.settings import Settings
from flows.smears.night import NightOutcome, nightly, screen
from flows.smears.segment import segment
from flows.smears.stages import segmentation as cutting
from flows.smears.stages import sorting as module
from storage.batches.manifests import find_batch
from storage.kinds import all_checks
from storage.smears.segmentations import find_segmentation, manifest_address
from storage.store import Store, StoreError
from tasks.images.access.files import SourceError
from tests.support.fields import rendered

DAY = date(2026, 3, 1)


@pytest.fixture
def mixed(cells: Path, tmp_path: Path) -> Path:
    """Two fields, one of a size that a cell may have, and three cells."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, seed, size in (("field", 0, (900, 643)), ("larger", 1, (1120, 800))):
        drawn = rendered(seed, cells=12, overlapping=0.2).pixels
        Image.fromarray(drawn).resize(size).save(folder / f"{name}.png")
    for cell in sorted(cells.glob("*/*.png"))[:3]:
        shutil.copy(cell, folder)
    return folder


def night(images: Path, settings: Settings, batch: str = "night", **more: Any) -> NightOutcome:
    return screen.fn(Screen(images=str(images), batch=batch, date=DAY, **more), settings)


def rows_of(outcome: NightOutcome) -> list[dict[str, object]]:
    """Read a report but for the names of its batch and the hour."""
    report = pq.read_table(outcome.report).drop_columns(["batch", "scored_at"])
    rows: list[dict[str, object]] = report.to_pylist()
    return rows


def test_a_mixture_is_told_and_each_part_is_taken_for_what_it_is(
    mixed: Path, tiny_ready: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = night(mixed, tiny_ready)
    assert outcome.taken_for == {"fields": 2, "cells": 3}
    told = "2 photographs of fields, 3 pictures of single cells"
    assert f"{mixed}: {told}; cells are cut out" in capsys.readouterr().err
    assert f"taken for   {told}" in outcome.text()
    rows = rows_of(outcome)
    whole = [row for row in rows if row["source_uri"] is None]
    assert sorted(Path(str(row["uri"])).name for row in whole) == sorted(
        path.name for path in mixed.glob("*.png") if path.stem not in {"field", "larger"}
    )
    sources = {Path(str(row["source_uri"])).name for row in rows if row["source_uri"]}
    assert sources == {"field.png", "larger.png"}
    fields = pq.read_table(outcome.report.replace("/images/", "/fields/")).to_pylist()
    assert sum(row["images"] for row in fields) == len(rows) - 3
    again = night(mixed, tiny_ready)
    assert (again.repeated, again.taken_for) == (True, outcome.taken_for)
    manifest = manifest_address(Store(tiny_ready.store), "night")
    assert screen.fn(Screen(images=manifest, batch="night"), tiny_ready).repeated
    with pytest.raises(StoreError, match=r"lists cells, and --as fields says otherwise"):
        screen.fn(Screen(images=manifest, batch="again", taken_as="fields"), tiny_ready)
    assert str(mixed) in Path(outcome.page).read_text()
    Path(tiny_ready.store).rename(f"{tiny_ready.store}-moved")
    moved = tiny_ready.model_copy(update={"store": f"{tiny_ready.store}-moved"})
    assert night(mixed, moved).repeated


@pytest.mark.slow
def test_the_report_is_that_of_the_two_commands(mixed: Path, tiny_ready: Settings) -> None:
    for cell in mixed.glob("*.png"):
        if cell.stem not in {"field", "larger"}:
            cell.unlink()
    one = night(mixed, tiny_ready, "one")
    made = segment.fn(Segment(images=str(mixed), name="two"), tiny_ready)
    two = night(Path(made.manifest), tiny_ready, "two")
    assert rows_of(one) == rows_of(two)


def test_a_killed_night_resumes_with_the_same_decision(
    mixed: Path, tiny_ready: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, killed = rows_of(night(mixed, tiny_ready)), Mock(side_effect=RuntimeError("killed"))
    for at in ("_survey", "_search", "_publish"):
        with monkeypatch.context() as patch:
            patch.setattr(cutting, at, killed)
            with pytest.raises(RuntimeError, match="killed"):
                night(mixed, tiny_ready, f"killed{at}")
        with monkeypatch.context() as patch:
            patch.setattr(module, "_recognised", killed)  # nothing is looked at anew
            outcome = night(mixed, tiny_ready, f"killed{at}")
        assert rows_of(outcome) == expected


def test_a_person_overrules_what_it_looks_like(mixed: Path, tiny_ready: Settings) -> None:
    cells = night(mixed, tiny_ready, "cells", taken_as="cells")
    assert (cells.taken_for, cells.failures) == ({}, {"not_a_cell": 2})
    fields = night(mixed, tiny_ready, "fields", taken_as="fields")
    assert (fields.taken_for, fields.failures) == ({"fields": 5}, {"no_thin_smear": 1})
    assert all(row["source_uri"] for row in rows_of(fields) if row["status"] == "scored")


def test_another_word_on_a_batch_that_was_begun_is_refused_and_force_begins_anew(
    mixed: Path, tiny_ready: Settings
) -> None:
    first = night(mixed, tiny_ready)
    for other in ("cells", "fields"):
        with pytest.raises(StoreError, match="taken for what they look like: leave out --as"):
            screen.fn(Screen(images=str(mixed), batch="night", taken_as=other), tiny_ready)
    with pytest.raises(StoreError, match="give the same --images"):
        screen.fn(Screen(images=str(mixed.parent), batch="night"), tiny_ready)
    (mixed / "larger.png").unlink()
    anew = night(mixed, tiny_ready, force=True)
    assert (first.taken_for["fields"], anew.taken_for["fields"]) == (2, 1)
    store = Store(tiny_ready.store)
    for key in ("night", "night~2"):
        assert find_segmentation(store, key) is not None
    for check in all_checks(store):
        check.verify()
    assert manifest_address(store, "night~2").endswith("night~2/manifest.parquet")
    assert screen.fn(Screen(images=str(mixed), batch="night"), tiny_ready).repeated


def test_a_folder_of_cells_is_screened_as_before(cells: Path, tiny_ready: Settings) -> None:
    outcome = night(cells, tiny_ready, "cells", limit=4)
    assert (outcome.images, outcome.taken_for) == (4, {})
    assert find_segmentation(Store(tiny_ready.store), "cells") is None
    assert "taken for" not in outcome.text()


@pytest.mark.slow
def test_an_inbox_is_looked_at_too(mixed: Path, tiny_ready: Settings) -> None:
    outcome = nightly.fn(Nightly(inbox=str(mixed), settle=0), tiny_ready)
    assert outcome.taken_for == {"fields": 2, "cells": 3}
    assert {row["slide_id"] for row in rows_of(outcome)} >= {"field", "larger"}
    assert nightly.fn(Nightly(inbox=str(mixed), settle=0), tiny_ready).repeated


def test_photographs_that_all_fail_keep_their_patients(
    tmp_path: Path, tiny_ready: Settings
) -> None:
    for patient in ("ann", "ben"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        (tmp_path / "in" / patient / "1.jpg").write_bytes(b"no image")
    rows = rows_of(night(tmp_path / "in", tiny_ready))
    assert [row["slide_id"] for row in rows] == ["ann", "ben"]


def test_slides_in_an_archive_are_refused_before_anything_is_begun(
    tmp_path: Path, tiny_ready: Settings
) -> None:
    archive = tmp_path / "slides.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("one.svs", b"a slide")
    with pytest.raises(SourceError, match="unpack it, and give the folder"):
        screen.fn(Screen(images=str(archive), batch="night"), tiny_ready)
    assert find_batch(Store(tiny_ready.store), "night") is None
