"""The pages of readers, asked as a browser asks, and as somebody else does."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from flows.smears.commands.review.session import Session, open_session
from storage.store import Store
from tests.support.bench import HOST, OWN, ask, client_of, send
from tests.support.pages import EVIL, Page
from tests.support.reading import night

ANA = "Ana Núñez"


@pytest.fixture
def session(store_with_model: Store, tmp_path: Path) -> Session:
    batch = night(store_with_model, tmp_path / "cells", slide=EVIL)
    made, _ = open_session(store_with_model, batch, limit=100, per_slide=99, unmarked=0.25)
    return made


@pytest.fixture
def client(session: Session) -> TestClient:
    return client_of(session)


def test_a_whole_session_without_script(client: TestClient, session: Session) -> None:
    begun = send(client, "/reader", {"reader": " Ana  Nu\u0301ñez"})
    assert begun.headers["location"] == f"/secret/by/{quote(ANA)}"
    for read in range(len(session.cells)):
        page = ask(client, f"/by/{ANA}")
        assert f"{read} of 12 read" in page.text
        image_id = str(page.url).rpartition("/")[2]
        assert ask(client, f"/picture/{image_id}").headers["content-type"] == "image/png"
        answer = send(client, f"/by/{ANA}/{image_id}", {"answer": "Uninfected", "seconds": "1.5"})
        assert answer.status_code == 303
    assert str(ask(client, f"/by/{ANA}").url).endswith("/secret/report")
    assert session.seconds(ANA) == 1.5
    assert send(client, f"/by/{ANA}/undo", {}).headers["location"].endswith(image_id)
    assert len(session.on_sample(ANA)) == 11
    assert "adds <b>11</b> answers" in ask(client, "/report").text
    assert "11 new answers" in send(client, "/import", {}).text


def test_diagnosis_and_scores_are_hidden_until_the_answer_is_there(
    client: TestClient, session: Session
) -> None:
    image_id = session.queue("Ada")[0]
    before = ask(client, f"/by/Ada/{image_id}").text
    assert not [each for each in ("The machine says", "p-value", "abnormal") if each in before]
    send(client, f"/by/Ada/{image_id}", {"answer": "other"})
    assert "The machine says" in ask(client, f"/by/Ada/{image_id}").text
    assert "The machine says" not in ask(client, f"/by/Ben/{image_id}").text
    told = client_of(session, blind=False)
    assert "The machine says" in ask(told, f"/by/Ben/{image_id}").text


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/wrong/", OWN, 404),
        ("/", OWN, 404),
        ("/secretly/", OWN, 404),
        ("/secret/", {"host": "evil.example:8077"}, 400),
        ("/secret/files/../app.py", OWN, 404),
        ("/secret/files/base.html", OWN, 404),
        ("/secret/picture/nobody", OWN, 404),
        ("/secret/by/Ada/nobody", OWN, 404),
        ("/secret/by/.hidden", OWN, 404),
        pytest.param(f"/secret/by/Ada/patients/{6_000 * '9'}", OWN, 414, id="6,000 digits"),
        pytest.param(f"/secret/by/Ada/patients/{900 * '9'}", OWN, 404, id="900 digits"),
    ],
)
def test_a_stranger_sees_nothing(
    client: TestClient, path: str, headers: dict[str, str], status: int
) -> None:
    assert client.get(path, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": HOST}, 403),
        ({"host": HOST, "origin": "null"}, 403),
        ({"host": HOST, "origin": "https://evil.example"}, 403),
        ({"host": HOST, "origin": f"https://{HOST}"}, 403),
        (OWN | {"content-length": "99999"}, 413),
        (OWN | {"content-length": "9", "transfer-encoding": "chunked"}, 413),
        (OWN, 400),
    ],
    ids=["no origin", "null", "another", "another scheme", "too long", "in chunks", "no answer"],
)
def test_forms_of_other_pages_are_refused(
    client: TestClient, session: Session, headers: dict[str, str], status: int
) -> None:
    path = f"/secret/by/Ada/{session.queue('Ada')[0]}"
    answer = client.post(path, content="answer=dead", headers=headers)
    assert answer.status_code == status
    assert session.sampled_by_reader() == {}


def test_a_name_cannot_break_out_of_a_page(client: TestClient, session: Session) -> None:
    for image_id in session.queue("Ada"):
        send(client, f"/by/Ada/{image_id}", {"answer": "unsure"})
        page = Page(ask(client, f"/by/Ada/{image_id}").text)
        assert [each["src"] for each in page.of("script")] == ["/secret/files/bench.js"]
    refused = send(client, "/reader", {"reader": EVIL})
    assert refused.status_code == 400
    assert not re.search("<script>alert", refused.text)


def test_nothing_that_a_page_shows_comes_from_elsewhere(client: TestClient) -> None:
    page = ask(client, "/by/Ada")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "same-origin"
    assert "http" not in re.sub(r"http-equiv", "", page.text)


def test_a_cell_whose_file_has_changed_is_told(client: TestClient, session: Session) -> None:
    image_id = session.queue("Ada")[0]
    Path(str(session.cells[image_id]["uri"])).write_bytes(b"another")
    assert "cannot be read: the file was changed" in ask(client, f"/by/Ada/{image_id}").text
    assert ask(client, f"/picture/{image_id}").status_code == 404


@pytest.mark.parametrize("seconds", ["nan", "-nan", "inf", "-1", "x"])
def test_any_number_of_seconds_is_taken(client: TestClient, session: Session, seconds: str) -> None:
    image_id = session.queue("Ada")[0]
    given = {"answer": "unsure", "seconds": seconds}
    assert send(client, f"/by/Ada/{image_id}", given).status_code == 303
    assert session.seconds("Ada") in {0.0, 600.0}


def test_an_answer_that_cannot_be_kept_is_said_to_the_person(
    client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    image_id = session.queue("Ada")[0]
    monkeypatch.setattr("flows.smears.stages.answers.add_answer", full)
    answer = send(client, f"/by/Ada/{image_id}", {"answer": "unsure"})
    assert answer.status_code == 503
    assert "This was not done" in answer.text
    assert "Permission denied" in answer.text
    assert session.sampled_by_reader() == {}


def test_a_damaged_answer_is_said_on_every_page(client: TestClient, session: Session) -> None:
    session.store.write_bytes(b"{", "answers", session.batch.key, "00000000-0123456789ab.json")
    for path in ("/by/Ada", "/report"):
        assert "1 answer on this batch cannot be read and is left out" in ask(client, path).text
    image_id = session.queue("Ada")[0]
    send(client, f"/by/Ada/{image_id}", {"answer": "unsure"})
    send(client, f"/by/Ada/{session.queue('Ada')[0]}", {"answer": "Uninfected"})
    refused = send(client, "/import", {})
    assert refused.status_code == 503
    assert "a damaged answer may have changed" in refused.text
