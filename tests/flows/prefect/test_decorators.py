"""When Prefect runs a flow and its stages, and when this process does."""

from typing import Annotated, Any, NoReturn

import prefect
import pytest
from prefect.context import FlowRunContext, TaskRunContext
from pydantic import Field

from flows.monitoring.telemetry import observed
from flows.options.flows import Options
from flows.outcome import Outcome
from flows.prefect import decorators
from flows.prefect.decorators import Flow, flow, run, task
from flows.settings import Settings
from storage.store import StoreError


@task
def stage_of(number: int) -> tuple[int, bool]:
    return number, TaskRunContext.get() is not None


class Staged(Outcome):
    stage: tuple[int, bool]
    run: str | None
    store: str

    def _text(self) -> str:
        return str(self.stage)


class Numbered(Options):
    """Number it."""

    number: Annotated[int, Field(ge=2, description="which it is")]
    name: Annotated[str | None, Field(description="of it")] = None


@flow(flow_run_name="number {options.number}")
@observed()
def staged(options: Numbered, settings: Settings) -> Staged:
    """Work in stages."""
    if options.name == "none":
        raise StoreError("it is not there")
    return Staged(stage=stage_of(options.number), run=name_of_run(), store=settings.store)


def name_of_run() -> str | None:
    context = FlowRunContext.get()
    return context.flow_run.name if context and context.flow_run else None


@flow()
def calling(options: Numbered, settings: Settings) -> Staged:
    return staged.fn(options, settings)


SEVEN = Numbered(number=7)


def test_without_a_server_a_flow_and_its_stages_are_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decorators, "server", lambda: None)
    done = run(staged, SEVEN, Settings(store="s"))
    assert done == Staged(stage=(7, False), run=None, store="s")


@pytest.mark.usefixtures("prefect_api")
def test_with_a_server_prefect_runs_a_flow_and_its_stages() -> None:
    done = run(staged, SEVEN, Settings(store="s"))
    assert done == Staged(stage=(7, True), run="number 7", store="s")
    with pytest.raises(StoreError, match="it is not there"):
        run(staged, Numbered(number=7, name="none"), Settings())
    # The function remains one.
    assert staged.fn(SEVEN, Settings(store="s")).run is None


@pytest.mark.usefixtures("prefect_api")
def test_a_flow_that_another_calls_is_a_function_in_its_run() -> None:
    done = run(calling, SEVEN, Settings(store="s"))
    assert isinstance(done, Staged)
    assert done.stage == (7, True)
    assert done.run not in (None, "number 7")


@pytest.mark.usefixtures("prefect_api")
def test_a_flow_that_was_imported_before_prefect_is_run_by_it_too() -> None:
    assert isinstance(staged, prefect.Flow)
    local = Flow(staged.fn, "number {options.number}")
    assert run(local, SEVEN, Settings()).run == "number 7"


class GoneError(Exception):
    """Prefect's server is gone."""


@pytest.mark.usefixtures("prefect_api")
def test_the_flows_own_end_counts_whatever_becomes_of_prefect_after_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call, called = prefect.Flow.__call__, True

    def failing(self: Any, *given: Any, **named: Any) -> NoReturn:
        if called:
            call(self, *given, **named)
        raise GoneError("no\nanswer")

    monkeypatch.setattr(prefect.Flow, "__call__", failing)
    done = run(staged, SEVEN, Settings(store="s"))
    assert done.stage == (7, True)
    said = "Prefect did not record how this run ended: GoneError: no answer\n"
    assert capsys.readouterr().err == said
    # An error of the flow is its own, and is not laid at Prefect's door.
    with pytest.raises(StoreError, match="it is not there"):
        run(staged, Numbered(number=7, name="none"), Settings())
    called = False
    with pytest.raises(GoneError):
        run(staged, SEVEN, Settings())


def test_prefect_has_the_options_and_the_settings_as_parameters() -> None:
    made: Any = staged
    schema = made.parameters.model_dump()
    assert list(schema["properties"]) == schema["required"] == ["options", "settings"]
    numbered = schema["definitions"]["Numbered"]
    assert numbered["properties"]["number"]["minimum"] == 2
    assert numbered["required"] == ["number"]
    assert (made.name, made.flow_run_name) == ("staged", "number {options.number}")
    assert made.description == "Work in stages."
    given = made.validate_parameters({"options": {"number": 3}, "settings": {}})
    assert given == {"options": Numbered(number=3), "settings": Settings()}
