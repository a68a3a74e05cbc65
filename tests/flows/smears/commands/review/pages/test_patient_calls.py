"""A patient is confirmed or refused on pages that work without script."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from flows.options.tools import ReviewReport
from flows.settings import Settings
from flows.smears.commands.review.pages import patient_calls
from flows.smears.commands.review.queue import report
from flows.smears.commands.review.session import Session, open_session
from flows.smears.stages.answers import Suspects
from storage.store import Store
from tests.support.bench import ask, client_of, send
from tests.support.reading import add_patients, night


@pytest.fixture
def session(store_with_model: Store, tmp_path: Path) -> Session:
    batch = night(store_with_model, tmp_path / "cells", cells=60)
    add_patients(store_with_model, {"p0": 2, "p1": 4, "p2": 0})
    made, _ = open_session(store_with_model, batch, limit=100, per_slide=99, unmarked=0.25)
    return made


def read(client: TestClient, number: int, parasites: int, reader: str = "Ada") -> str:
    """Mark the first cells of a patient's sheet as parasites; return the page that follows."""
    path = f"/by/{reader}/patients/{number}"
    cells = re.findall(r'name="parasite" value="(\w+)"', ask(client, path).text)
    told = send(client, path, {"cell": cells, "parasite": cells[:parasites], "seconds": "20"})
    assert told.headers["location"].endswith(path)
    return ask(client, path).text


def test_a_patient_is_confirmed_on_a_sheet_whose_answer_stands_beside_the_machine_s(
    session: Session,
) -> None:
    client = client_of(session)
    listed = ask(client, "/by/Ada/patients").text
    assert listed.index("p0") < listed.index("p1")
    assert "p2" not in listed  # negative: nobody is asked
    sheet = ask(client, "/by/Ada/patients/0").text
    assert sheet.count('type="checkbox"') == 10
    assert 'data-mark="0"' in sheet
    page = read(client, 0, parasites=2)
    assert "<h1>p0: confirmed</h1>" in page
    assert (
        "You found parasites in 2 of the 10 cells you read; the machine called 2 parasitized"
        in page
    )
    assert 'href="/secret/by/Ada/patients/1"' in page
    refused = read(client, 1, parasites=0)
    assert "<h1>p1: refused</h1>" in refused
    told = ask(client, "/report").text
    assert "patients confirmed" in told
    assert "patients refused" in told
    outcome = report(ReviewReport(batch="night"), Settings(store=session.store.url))
    assert [(each.name, each.machine, each.persons.answer) for each in outcome.patients] == [
        ("p0", "positive", "confirmed"),
        ("p1", "positive", "refused"),
    ]
    assert "machine: positive; persons: refused (0 of 10 cells are parasites)" in outcome.text()


def test_the_order_is_the_called_cells_then_the_next_most_probable(session: Session) -> None:
    suspects = Suspects(session, None, 0.01)
    first = suspects.asked[0]
    rows = {row["image_id"]: row for row in session.scored.to_pylist()}
    # Cells 0 to 8 are abnormal, and count as others do; p0 has every fourth.
    assert [rows[image]["uri"].rpartition("/")[2] for image in first.order[:3]] == [
        "0.png", "4.png", "8.png",
    ]  # fmt: skip
    assert (len(first.called), len(first.order)) == (2, 10)


def test_the_start_page_says_the_task_the_keys_and_who_has_read_what(session: Session) -> None:
    client = client_of(session)
    read(client, 0, parasites=1)
    page = ask(client, "/").text
    assert "There are 12 cells to read" in page
    assert "2 patients positive, suspected or indeterminate, and you read at most 10" in page
    assert "<kbd>p</kbd> Parasitized" in page
    assert '<th scope="row">Ada</th><td>3 of 12</td><td>1 of 2</td>' in page  # abnormal ones
    there = send(client, "/reader", {"reader": "Ben", "what": "patients"})
    assert there.headers["location"] == "/secret/by/Ben/patients"


def test_cells_on_which_readers_differ_are_a_list_that_opens(session: Session) -> None:
    image, other = session.queue("Ada")[:2]
    for reader, answer in (("Ada", "Parasitized"), ("Ben", "Uninfected")):
        session.answer(reader, image, answer, 1.0)
        session.answer(reader, other, "other", 1.0)
    page = ask(client_of(session), "/report").text
    assert "1 cell on which readers differ" in page
    assert f'<a href="/secret/by/Ben/{image}">Ben</a>: Uninfected' in page
    assert f"/by/Ben/{other}" not in page


def test_an_answer_can_be_changed_and_others_stay(session: Session) -> None:
    client = client_of(session)
    assert "confirmed" in read(client, 0, parasites=1)
    sheet = ask(client, "/by/Ada/patients/0?again").text
    assert sheet.count(" checked") == 1
    number = len(session.of_reader("Ada"))
    cells = re.findall(r'name="cell" value="(\w+)"', sheet)
    send(client, "/by/Ada/patients/0", {"seconds": "nan", "cell": cells})
    assert "refused" in ask(client, "/by/Ada/patients/0").text
    session.refresh()
    assert len(session.of_reader("Ada")) == number


def test_a_form_of_other_cells_or_of_a_batch_that_was_screened_again_answers_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, path = client_of(session), "/by/Ada/patients/0"
    cells = re.findall(r'name="cell" value="(\w+)"', ask(client, path).text)
    for fields in ({}, {"cell": cells[1:]}, {"cell": cells, "parasite": ["no such cell"]}):
        told = send(client, path, fields)
        assert (told.status_code, "load the page again" in told.text) == (409, True)
    monkeypatch.setattr(patient_calls, "published_batch", lambda *_: SimpleNamespace(key="night~2"))
    assert "start review serve again" in send(client, path, {"cell": cells}).text
    assert not session.readers()


@pytest.mark.parametrize("path", ["/by/Ada/patients/7", "/by/.no/patients", "/by/Ada/patients/x"])
def test_another_patient_is_none(session: Session, path: str) -> None:
    assert ask(client_of(session), path).status_code == 404


def test_a_night_of_before_there_were_patients_has_none(
    store_with_model: Store, tmp_path: Path
) -> None:
    batch = night(store_with_model, tmp_path / "cells")
    old, _ = open_session(store_with_model, batch, limit=9, per_slide=99, unmarked=0.25)
    assert (
        "No positive, suspected or indeterminate patient"
        in ask(client_of(old), "/by/Ada/patients").text
    )
    assert "Confirm patients" not in ask(client_of(old), "/").text
