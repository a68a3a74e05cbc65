"""When Prefect runs a flow and its stages, and when this process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.context import FlowRunContext, TaskRunContext

from flows import deployments
from flows.monitoring.prefect_runs import runnable, task
from flows.options.taking import Options, takes
from flows.settings import Settings

URL = "http://prefect.example/api"
ASK = """
import sys
from flows.monitoring.prefect_runs import has_server
print(has_server(), "prefect" in sys.modules)
"""


@task
def stage_of(number: int) -> tuple[int, bool]:
    return number, TaskRunContext.get() is not None


class Numbered(Options):
    """Number it."""

    number: int


@takes(Numbered, run_name="number {number}")
def staged(options: Numbered, _: Settings) -> tuple[int, bool, str | None]:
    return *stage_of(options.number), name_of_run()


def name_of_run() -> str | None:
    context = FlowRunContext.get()
    return context.flow_run.name if context and context.flow_run else None


def test_without_a_server_a_flow_and_its_stages_are_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.monitoring.prefect_runs.has_server", lambda: False)
    assert runnable(staged)(number=7) == (7, False, None)


def test_with_a_server_prefect_runs_a_flow_and_its_stages(prefect_api: str) -> None:
    assert runnable(staged)(number=7) == (7, True, "number 7")
    assert staged(7) == (7, False, None)  # the function remains one


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
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == found


def test_deployments_have_flows_and_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no flow status"):
        _ = deployments.status
