"""How nights end in Prefect."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun

from flows.options.flows import Nightly, Options, Screen
from flows.prefect.decorators import Flow, flow
from flows.prefect.states import RedError, is_lost, told
from flows.settings import Settings
from flows.smears.night import nightly, screen
from storage.store import StoreError
from tests.support.fitted import copied

pytestmark = pytest.mark.usefixtures("prefect_api")


@dataclass
class Ended:
    """The outcome of a night."""

    light: str
    images: int = 441
    scored: int = 441
    reasons: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    patients: dict[str, int] = field(default_factory=lambda: {"positive": 2, "negative": 10})
    problem: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.problem)


class Nothing(Options):
    """Do nothing."""


def by_prefect(flow: Any, options: Options, settings: Settings) -> Any:
    """Run a flow by Prefect, even one that was imported before it."""
    made = flow.of_prefect() if isinstance(flow, Flow) else flow
    return made(options, settings, return_state=True)


def state_of(outcome: Ended, error: Exception | None = None) -> Any:
    @flow()
    def night(options: Nothing, settings: Settings) -> Ended:
        if error is not None:
            raise error
        return outcome

    return by_prefect(night, Nothing(), Settings())


@pytest.mark.parametrize(("light", "name"), [("green", "Completed"), ("amber", "Amber")])
def test_a_published_night_is_completed_by_its_light(light: str, name: str) -> None:
    outcome = Ended(light)
    state = state_of(outcome)
    assert (state.type.value, state.name) == ("COMPLETED", name)
    assert state.message == "patients: 2 positive, 10 negative; 441 images"
    assert state.result() is outcome


def test_a_red_night_has_no_green_tick() -> None:
    state = state_of(Ended("red"))
    assert (state.type.value, state.name) == ("FAILED", "Red")
    assert state.message == "patients: 2 positive, 10 negative; 441 images"
    with pytest.raises(RedError, match="2 positive"):
        state.result()


def test_one_damaged_file_is_a_word_and_no_failure() -> None:
    state = state_of(Ended("green", scored=440, failures={"damaged": 1}, problem="1 failed"))
    assert (state.type.value, state.name) == ("COMPLETED", "Amber")
    assert state.message is not None
    assert state.message.endswith("441 images, of which 1 failed (1 damaged)")


@pytest.mark.parametrize(("scored", "lost"), [(0, True), (75, True), (76, False)])
def test_a_night_without_a_quarter_of_its_images_is_failed(scored: int, lost: bool) -> None:
    outcome = Ended("red", images=100, scored=scored, failures={"empty": 9}, problem="few are left")
    assert is_lost(outcome) == lost
    assert state_of(outcome).name == ("Failed" if lost else "Red")


def test_what_our_code_says_is_a_failure_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = state_of(Ended("green"), StoreError("no detector yet; make one"))
    assert (state.type.value, state.message) == ("FAILED", "no detector yet; make one")
    with pytest.raises(StoreError, match="make one"):
        state.result()
    assert "Traceback" not in caplog.text
    assert state_of(Ended("green"), ZeroDivisionError()).message != ""


def test_what_is_told_holds_no_secret() -> None:
    outcome = Ended("amber", reasons=["s3://me:pass@bucket\n is gone"], patients={})
    assert told(outcome) == "441 images; amber: s3://***@bucket  is gone"


def run_of(run_id: str) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(run_id))


def test_runs_are_named_after_their_night_and_show_how_it_was(
    cells: Path, tiny_fitted: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = copied(tiny_fitted, tmp_path / "store")
    state = by_prefect(nightly, Nightly(inbox=str(cells), series="ward", settle=0), settings)
    run = run_of(str(state.state_details.flow_run_id))
    assert run.name.startswith("ward-20")
    assert run.state_name in {"Completed", "Amber", "Red"}
    assert state.message.startswith("patients: ")

    empty = tmp_path / "inbox"
    empty.mkdir()
    assert screen.fn(Screen(images=str(empty), batch="empty"), settings).problem
    state = by_prefect(screen, Screen(images=str(empty), batch="empty"), settings)
    assert (state.type.value, run_of(str(state.state_details.flow_run_id)).name) == (
        "FAILED",
        "empty",
    )
