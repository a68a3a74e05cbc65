"""`call` needs only the report on images, and finishes a night that was cut off before it."""

import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest

from flows import screen as images_alone
from flows.commands.status import status
from flows.options.flows import CallAgain, Screen
from flows.options.tools import PatientSheet, ReviewImport, Status
from flows.settings import Settings
from flows.smears import night
from flows.smears.call import call
from flows.smears.commands.patient import patient
from flows.smears.commands.review.imports import import_answers
from storage.reports import sql
from storage.store import Store, StoreError
from tests.support import fitted, images

DAY = date(2026, 3, 1)


@dataclass
class Ward:
    """The cells of some patients, and a store of one's own."""

    settings: Settings
    wanted: Screen

    def patients(self) -> list[tuple[object, ...]]:
        path = Path(self.settings.store) / "reports" / "patients"
        return duckdb.sql(f"SELECT * FROM '{path}/**/*.parquet' ORDER BY ALL").fetchall()


@pytest.fixture
def ward(tiny_fitted: Settings, tmp_path: Path) -> Ward:
    images.write_cells(tmp_path / "night", 3, 6, seed=7, first=301)
    settings = fitted.copied(tiny_fitted, tmp_path / "store")
    return Ward(settings, Screen(images=str(tmp_path / "night"), batch="night", date=DAY))


def test_a_night_cut_off_before_its_calls_goes_on_with_the_same_command(ward: Ward) -> None:
    first = images_alone.screen.fn(ward.wanted, ward.settings)
    before = Path(first.report).read_bytes()
    assert not (Path(ward.settings.store) / "reports" / "patients").exists()
    outcome = night.screen.fn(ward.wanted, ward.settings)
    assert len(ward.patients()) == 3
    assert Path(outcome.page).exists()
    assert Path(outcome.report).read_bytes() == before
    assert night.screen.fn(ward.wanted, ward.settings).repeated


def test_a_batch_is_called_again_without_features_and_beside_a_damaged_table(ward: Ward) -> None:
    outcome = night.screen.fn(ward.wanted, ward.settings)
    before = ward.patients()
    shutil.rmtree(Path(ward.settings.store) / "features")
    Path(outcome.page).unlink()
    next(Path(ward.settings.store).glob("reports/patients/*/*.parquet")).write_bytes(b"")
    again = call.fn(CallAgain(batch="night"), ward.settings)
    assert ward.patients() == before
    assert sum(again.patients.values()) == 3
    assert Path(again.page).exists()


def test_what_a_sheet_says_of_a_patient_is_said_everywhere(ward: Ward, tmp_path: Path) -> None:
    outcome = night.screen.fn(ward.wanted, ward.settings)
    before, store = ward.patients(), Store(ward.settings.store)
    cells = duckdb.sql(f"SELECT image_id, patient_id FROM '{outcome.report}'").fetchall()
    theirs = [image for image, patient in cells if patient == cells[0][1]]
    lines = [f"{image},night,Parasitized,,Ada" for image in theirs]
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("\n".join(["image_id,batch,answer,note,reader", *lines]))
    for _ in range(2):  # the second import changes nothing
        import_answers(ReviewImport(file=str(sheet)), ward.settings)
    assert ward.patients() == before  # the machine's calls
    asked = "SELECT patient_id, person_answer, person_cells, readers, read_at FROM patients"
    with sql.answer(store, f"{asked} WHERE readers IS NOT NULL") as rows:
        (row,) = rows.read_all().to_pylist()
    assert row.pop("read_at") > datetime(2026, 1, 1, tzinfo=UTC)
    named = {"patient_id": cells[0][1], "person_answer": "confirmed"}
    assert row == named | {"person_cells": len(theirs), "readers": ["Ada"]}
    assert status(Status(), ward.settings).batches[-1]["persons"] == {"positive": 1}
    assert "by Ada" in patient(PatientSheet(name=cells[0][1]), ward.settings).text()
    page = Path(outcome.page)
    assert f"{len(theirs)} of {len(theirs)} cells are parasites" in page.read_text()
    assert "1 by persons" in (page.parent / "index.html").read_text()
    night.screen.fn(ward.wanted.model_copy(update={"force": True}), ward.settings)
    with sql.answer(store, "SELECT count(readers) AS n FROM patients") as rows:
        assert rows.read_all()["n"].to_pylist() == [1]  # on cells that are outlined again


def test_a_batch_without_a_report_is_not_called(ward: Ward) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        call.fn(CallAgain(batch="nowhere"), ward.settings)
