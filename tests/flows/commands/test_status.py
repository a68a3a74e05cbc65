"""The command `status`."""

from pathlib import Path

import pytest

from flows.commands.status import status
from flows.settings import Settings
from tests.support.screening import screen_night

pytestmark = pytest.mark.usefixtures("prefect_api")


def test_status_lists_what_is_there(images: Path, ready: Settings) -> None:
    screen_night(images, ready)
    outcome = status(ready)
    assert [row["model"] for row in outcome.models] == ["m"]
    assert [row["version"] for row in outcome.statistics] == ["v0001"]
    assert [row["batch"] for row in outcome.batches] == ["first", "night"]
    assert outcome.batches[1]["failed"] == 1
    for word in ("m-v0001", "night", "Uninfected"):
        assert word in outcome.text()


def test_an_empty_store_has_a_status(tmp_path: Path) -> None:
    assert "no models" in status(Settings(store=str(tmp_path / "nothing"))).text()
