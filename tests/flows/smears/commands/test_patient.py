"""The sheet of a patient is written from the reports of a night and from what readers have said."""

import json
import re
from pathlib import Path

import pytest

from flows.options.tools import Export, PatientSheet
from flows.settings import Settings, UsageError
from flows.smears.commands.patient import export, patient
from flows.smears.commands.review.session import open_session
from flows.smears.stages.answers import Suspects
from storage.reports.tables import published_batch
from storage.store import Store, StoreError
from tasks.reports.spreadsheet import read_csv
from tests.support.pages import Page
from tests.support.reading import add_patients, night


@pytest.fixture
def settings(store_with_model: Store, tmp_path: Path) -> Settings:
    night(store_with_model, tmp_path / "cells", cells=60)
    add_patients(store_with_model, {"p0": 2, "p1": 4})
    return Settings(store=store_with_model.url)


def test_the_page_shows_the_cells_behind_the_call(settings: Settings, tmp_path: Path) -> None:
    made = patient(PatientSheet(name="p0", batch="night", to=str(tmp_path / "p0.html")), settings)
    assert (made.call, made.persons) == ("positive", None)
    page = Page((tmp_path / "p0.html").read_text())
    assert len(page.of("img")) == 6  # the cells of files, which have no field
    said = "".join(page.text)
    assert said.count("not sure enough") + said.count("unlike its slide") == 4


def test_what_readers_have_said_stands_on_it(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings.store)
    batch = published_batch(store, "night")
    session, _ = open_session(store, batch, limit=9, per_slide=99, unmarked=0.25)
    for image in Suspects(session, None, 0.01).asked[0].order:
        session.answer("Ada", image, "Uninfected", 1.0)
    session.answer("Cy", image, "unsure", 1.0)  # who has refused nobody
    made = patient(PatientSheet(name="p0", batch="night", to=str(tmp_path / "p0.html")), settings)
    assert made.persons
    assert re.fullmatch(r"refused by Ada, 20\S+: 0 of 10 cells are parasites", made.persons)
    assert "persons: refused" in (tmp_path / "p0.html").read_text()


def test_a_parasite_that_a_reader_finds_by_chance_confirms_a_patient(settings: Settings) -> None:
    store = Store(settings.store)
    add_patients(store, {"p0": 2, "p1": 4, "p2": 0})
    session, _ = open_session(
        store, published_batch(store, "night"), limit=9, per_slide=99, unmarked=0.25
    )
    suspects = Suspects(session, None, 0.01)
    shown = {image for each in suspects.every for image in each.order}
    rows = session.scored.to_pylist()
    for name in ("p0", "p2"):  # p2 is negative, and nobody is asked
        own = [row["image_id"] for row in rows if row["patient_id"] == name]
        session.answer("Ada", next(image for image in own if image not in shown), "Parasitized", 1)
    for image in suspects.asked[0].order:
        session.answer("Cy", image, "Uninfected", 1.0)
    said = {patient: each.answer for (_, patient), each in suspects.by_patient().items()}
    assert said == {"p0": "confirmed", "p2": "confirmed"}


def test_the_table_opens_in_a_spreadsheet(settings: Settings, tmp_path: Path) -> None:
    patient(PatientSheet(name="p1", batch="night", to=str(tmp_path / "p1.csv")), settings)
    _, lines = read_csv((tmp_path / "p1.csv").read_bytes())
    own = next(lines)[1]
    assert (own["patient_id"], own["result"], own["value"]) == ("p1", "positive", "100000")
    assert "4 of 500 cells counted as parasitized" in own["text"]


def test_a_batch_is_exported_for_surveillance(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings.store)
    add_patients(store, {"p0": 2, "p1": 4, "p2": 0})
    batch = published_batch(store, "night")
    session, _ = open_session(store, batch, limit=9, per_slide=99, unmarked=0.25)
    for image in Suspects(session, None, 0.01).asked[0].order:
        session.answer("Ada", image, "Parasitized", 1.0)
    made = export(Export(to=str(tmp_path / "all.csv")), settings)
    assert [*made.patients] == ["positive, final", "positive, preliminary", "negative, preliminary"]
    _, lines = read_csv((tmp_path / "all.csv").read_bytes())
    rows = {row["patient_id"]: row for _, row in lines}
    assert (rows["p0"]["status"], rows["p0"]["reader"]) == ("final", "Ada")
    assert rows["p1"].items() >= {"unit": "parasites/µL", "date": "2026-03-01"}.items()
    assert (rows["p2"]["result"], rows["p2"]["value"]) == ("negative", "")
    export(Export(to=str(tmp_path / "all.json")), settings)
    bundle = json.loads((tmp_path / "all.json").read_text())
    assert (bundle["type"], len(bundle["entry"])) == ("collection", 3)
    with pytest.raises(UsageError, match=r"is no .csv or .json file"):
        export(Export(to=str(tmp_path / "all.xml")), settings)


def test_a_patient_may_be_named_like_a_slide(settings: Settings) -> None:
    add_patients(Store(settings.store), {"p1": 4, "slide p0": 2})
    assert patient(PatientSheet(name="slide p0"), settings).call == "positive"


def test_what_cannot_be_written_is_said(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no patient 'nobody'; it has p0, p1"):
        patient(PatientSheet(name="nobody", batch="night", to=str(tmp_path / "a.html")), settings)
    (Path(settings.store) / "reports/patients/batch_date=2026-03-01/x.parquet").write_bytes(b"")
    assert patient(PatientSheet(name="p0"), settings).failed  # it found p0, but another is damaged
    with pytest.raises(UsageError, match=r"is no .html or .csv file"):
        patient(PatientSheet(name="p0", batch="night", to=str(tmp_path / "a.pdf")), settings)
