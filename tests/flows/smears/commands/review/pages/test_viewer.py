"""Pictures with pan and zoom: what the server sends of them, and what it hides."""

import io
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from flows.smears.commands.review.session import Session, open_session
from storage.store import Store
from tests.support.bench import OWN, ask, client_of
from tests.support.reading import night, pyramid, slide_night

CELLS = [(226, 226), (738, 226), (226, 1762)]  # round discs of the slide


@pytest.fixture
def session(store_with_model: Store, tmp_path: Path) -> Session:
    pyramid(tmp_path / "slide.tif", 2000)
    batch = slide_night(store_with_model, tmp_path / "slide.tif", CELLS)
    made, _ = open_session(store_with_model, batch, limit=100, per_slide=99, unmarked=0.25)
    return made


def cells(client: TestClient, **box: float) -> list[dict[str, object]]:
    query = "&".join(f"{name}={value}" for name, value in box.items())
    found: list[dict[str, object]] = ask(client, f"/by/Ada/cells/0?{query}").json()["cells"]
    return found


def test_tiles_come_from_the_slide_itself(session: Session) -> None:
    answer = ask(client_of(session), "/tile/0/11/0_0")
    assert answer.headers["content-type"] == "image/jpeg"
    red, _, blue = Image.open(io.BytesIO(answer.content)).getpixel((250, 250))
    assert blue > red + 40
    assert ask(client_of(session), "/tile/0/11/9_9").status_code == 404
    assert ask(client_of(session), "/tile/3/11/0_0").status_code == 404


def test_the_page_says_where_the_cell_lies(session: Session) -> None:
    image_id = next(iter(session.cells))
    page = ask(client_of(session), f"/by/Ada/{image_id}/view").text
    assert "&#34;width&#34;: 2000" in page
    assert "openseadragon.min.js" in page
    assert "/view" in ask(client_of(session), f"/by/Ada/{image_id}").text


def test_only_the_cells_in_sight_are_sent(session: Session) -> None:
    client = client_of(session)
    near = cells(client, x=0, y=0, width=900, height=900)
    assert [each["points"][:2] for each in near] == [[226, 226], [738, 226]]  # type: ignore[index]
    assert len(cells(client, x=-500, y=-500, width=9000, height=9000)) == 3
    assert ask(client, "/by/Ada/cells/0?x=a").status_code == 400


def test_a_class_is_hidden_until_the_answer_is_there(session: Session) -> None:
    client, image_id = client_of(session), next(iter(session.cells))
    box = {"x": 0, "y": 0, "width": 2000, "height": 2000}
    before = {str(each["image_id"]): each for each in cells(client, **box)}
    assert {each["kind"] for each in before.values()} == {"not read"}
    assert not any(each["abnormal"] or each["said"] for each in before.values())
    answer = client.post(
        f"/secret/by/Ada/{image_id}", data={"answer": "other"},
        headers=OWN | {"accept": "application/json"},
    )  # fmt: skip
    assert answer.json()["contour"]["kind"] == "parasitized"
    after = {str(each["image_id"]): each for each in cells(client, **box)}
    assert (after[image_id]["kind"], after[image_id]["answer"]) == ("parasitized", "other")
    assert sum(each["kind"] == "not read" for each in after.values()) == 2
    told = client_of(session, blind=False)
    assert {each["kind"] for each in cells(told, **box)} == {"parasitized"}


def test_a_slide_that_is_gone_is_said(session: Session, tmp_path: Path) -> None:
    (tmp_path / "slide.tif").unlink()
    image_id = next(iter(session.cells))
    answer = ask(client_of(session), f"/by/Ada/{image_id}/view")
    assert answer.status_code in {404, 503}
    assert ask(client_of(session), "/tile/0/11/0_0").status_code in {404, 503}


def test_a_cell_that_is_a_file_of_its_own_has_no_picture(
    store_with_model: Store, tmp_path: Path
) -> None:
    batch = night(store_with_model, tmp_path / "cells")
    made, _ = open_session(store_with_model, batch, limit=9, per_slide=99, unmarked=0.25)
    image_id = next(iter(made.cells))
    assert ask(client_of(made), f"/by/Ada/{image_id}/view").status_code == 404
    assert "/view" not in ask(client_of(made), f"/by/Ada/{image_id}").text
