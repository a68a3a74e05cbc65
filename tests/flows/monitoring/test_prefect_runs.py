"""When Prefect runs a flow and its stages, and when this process does."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import pytest
from prefect.context import FlowRunContext, TaskRunContext
from pydantic import Field

from flows import deployments
from flows.monitoring import prefect_runs
from flows.monitoring.prefect_runs import prefect_flow, runnable, task
from flows.monitoring.telemetry import observed
from flows.options.flows import Options
from flows.outcome import Outcome
from flows.settings import Settings
from storage.store import StoreError
from tests.support.processes import python

URL = "http://prefect.example/api"
ASK = """
import sys
from flows.monitoring.prefect_runs import has_server
print(has_server(), "prefect" in sys.modules)
"""


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


@observed(run_name="number {number}")
def staged(options: Numbered, settings: Settings) -> Staged:
    """In stages."""
    if options.name == "none":
        raise StoreError("it is not there")
    return Staged(stage=stage_of(options.number), run=name_of_run(), store=settings.store)


def name_of_run() -> str | None:
    context = FlowRunContext.get()
    return context.flow_run.name if context and context.flow_run else None


def test_without_a_server_a_flow_and_its_stages_are_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefect_runs, "has_server", lambda: False)
    done = runnable(staged)(Numbered(number=7), Settings(store="s"))
    assert done == Staged(stage=(7, False), run=None, store="s")


@pytest.mark.usefixtures("prefect_api")
def test_with_a_server_prefect_runs_a_flow_and_its_stages() -> None:
    done = runnable(staged)(Numbered(number=7), Settings(store="s"))
    assert done == Staged(stage=(7, True), run="number 7", store="s")
    with pytest.raises(StoreError, match="it is not there"):
        runnable(staged)(Numbered(number=7, name="none"), Settings())
    # The function remains one.
    assert staged(Numbered(number=7), Settings(store="s")).run is None


class GoneError(Exception):
    """Prefect's server is gone."""


@pytest.mark.usefixtures("prefect_api")
def test_the_flows_own_end_counts_whatever_becomes_of_prefect_after_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, called = prefect_flow, True

    def failing(function: Any, options: type[Numbered]) -> Callable[..., NoReturn]:
        def call(**given: Any) -> NoReturn:
            if called:
                run(function, options)(**given)
            raise GoneError("no\nanswer")

        return call

    monkeypatch.setattr(prefect_runs, "prefect_flow", failing)
    done = runnable(staged)(Numbered(number=7), Settings(store="s"))
    assert done.stage == (7, True)
    said = "Prefect did not record how this run ended: GoneError: no answer\n"
    assert capsys.readouterr().err == said
    # An error of the flow is its own, and is not laid at Prefect's door.
    with pytest.raises(StoreError, match="it is not there"):
        runnable(staged)(Numbered(number=7, name="none"), Settings())
    called = False
    with pytest.raises(GoneError):
        runnable(staged)(Numbered(number=7), Settings())


def test_prefect_has_a_parameter_for_each_option() -> None:
    made = prefect_flow(staged, Numbered)
    schema = made.parameters.model_dump()
    assert list(schema["properties"]) == ["number", "name", "settings"]
    assert schema["properties"]["number"]["minimum"] == 2
    assert schema["required"] == ["number"]
    assert (made.name, made.flow_run_name) == ("staged", "number {number}")
    assert made.description == "Number it.\n\nIn stages."


@pytest.mark.parametrize(
    ("file", "text", "variable", "found"),
    [
        (None, "", None, "False False"),
        (None, "", "PREFECT_API_URL", "True True"),
        (".prefect/profiles.toml", f'[profiles.x]\nPREFECT_API_URL = "{URL}"', None, "False True"),
        (
            ".prefect/profiles.toml",
            f'active = "x"\n[profiles.x]\nPREFECT_API_URL = "{URL}"',
            None,
            "True True",
        ),
        ("prefect.toml", f'[api]\nurl = "{URL}"', None, "True True"),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{URL}"', None, "True True"),
        ("pyproject.toml", "[project]", None, "False False"),
        ("pyproject.toml", "[damaged", None, "False False"),
    ],
)
def test_a_server_is_found_where_prefect_would_find_it(
    tmp_path: Path, file: str | None, text: str, variable: str | None, found: str
) -> None:
    """And where nothing can name one, Prefect is not even imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= {"HOME": str(tmp_path)} | ({variable: URL} if variable else {})
    if file:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    done = python("-c", ASK, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == found


def test_deployments_have_flows_and_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no flow status"):
        _ = deployments.status
