"""Ask the pages of `review serve`, as a browser does."""

from collections.abc import Mapping

from httpx import Response
from starlette.testclient import TestClient

from flows.smears.commands.review.app import Bench
from flows.smears.commands.review.guards import guarded
from flows.smears.commands.review.session import Session

HOST = "127.0.0.1:8077"
OWN = {"host": HOST, "origin": f"http://{HOST}"}


def client_of(session: Session, *, blind: bool = True) -> TestClient:
    app = guarded(Bench(session, None, blind=blind, reader=None).app(), "secret", [HOST])
    return TestClient(app, base_url=f"http://{HOST}")


def ask(client: TestClient, path: str, **headers: str) -> Response:
    return client.get(f"/secret{path}", headers={"host": HOST} | headers)


def send(
    client: TestClient, path: str, fields: Mapping[str, str | list[str]], **headers: str
) -> Response:
    return client.post(f"/secret{path}", data=fields, headers=OWN | headers, follow_redirects=False)
