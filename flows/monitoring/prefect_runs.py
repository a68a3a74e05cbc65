"""Run flows and stages with Prefect where it has a server, and as plain functions where not.

A flow is a function. Where a Prefect server is configured, and in every deployment, Prefect calls
it: it records the run, its stages and their log. Elsewhere nobody would see those records, so the
same function runs in the caller's process, and Prefect is not even imported: that takes a second.
"""

import inspect
import os
import sys
import tomllib
from collections.abc import Callable
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_type_hints

from flows.options.flows import Options
from flows.settings import MOST_SETTINGS, Settings

if TYPE_CHECKING:
    from prefect import Flow

Parameters = ParamSpec("Parameters")
Taken = TypeVar("Taken", bound=Options)
Result = TypeVar("Result")

RUN_NAME = "flow_run_name"  # an attribute of a flow's function: how Prefect names its runs
SETTINGS = "settings"  # the parameter of every flow that is no option of its own

# Variables that can name a server; files of the working folder and Prefect's profiles can, too.
NAMING = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")


def task(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a stage's function, which is a Prefect task when Prefect runs the flow."""

    @wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if not in_prefect_run():
            return function(*args, **kwargs)
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        return task(cache_policy=NO_CACHE)(function)(*args, **kwargs)

    return run


def prefect_flow(
    function: Callable[[Taken, Settings], Result], options: type[Taken]
) -> "Flow[..., Result]":
    """Make the Prefect flow of a flow's function, whose parameters are its options, and settings.

    Whoever starts a deployment gives them by name; Prefect knows their types and limits.
    """
    from prefect import flow

    from flows.monitoring.states import end_state, error_state

    @wraps(function)
    def run(**given: Any) -> Any:
        settings = given.pop(SETTINGS) or Settings()
        try:
            return end_state(function(options.model_validate(given), settings))
        except Exception as error:
            return error_state(error)

    kind, needed = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(
            name,
            kind,
            annotation=hints[name],
            default=needed if field.is_required() else field.get_default(),
        )
        for name, field in options.model_fields.items()
    ]
    parameters.append(inspect.Parameter(SETTINGS, kind, default=None, annotation=Settings | None))
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__doc__ = "\n\n".join(filter(None, (options.__doc__, inspect.getdoc(function))))
    return flow(flow_run_name=vars(function).get(RUN_NAME))(run)


def runnable(function: Callable[[Taken, Settings], Result]) -> Callable[[Taken, Settings], Result]:
    """Return what runs a flow's function: Prefect where a server is configured, else itself."""
    return partial(_run_by_prefect, function) if has_server() else function


def _run_by_prefect(
    function: Callable[[Taken, Settings], Result], options: Taken, settings: Settings
) -> Result:
    """Let Prefect call a flow's function, whose own end counts, whatever Prefect does after it."""
    from flows.monitoring.console import complain

    results: list[Result] = []
    errors: list[BaseException] = []

    @wraps(function)
    def noted(options: Taken, settings: Settings) -> Result:
        try:
            results.append(function(options, settings))
        except BaseException as error:
            errors.append(error)
            raise
        return results[0]

    values = {name: getattr(options, name) for name in type(options).model_fields}
    try:
        prefect_flow(noted, type(options))(**values, settings=settings, return_state=True)
    except Exception as error:
        if not results and not errors:  # the function was never called
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        complain(f"Prefect did not record how this run ended: {text}")
    if errors:
        raise errors[0]
    return results[0]


def has_server() -> bool:
    """Return whether a Prefect server is configured; Prefect says so if anything may name one."""
    return server() is not None


def server() -> str | None:
    """Return the address of the Prefect server that is configured; None where there is none."""
    if "prefect" not in sys.modules and not _may_be_named():
        return None
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def runs_page() -> str | None:
    """Return the address of the page on which Prefect lists runs; None without a server."""
    if not has_server():
        return None
    from prefect.settings import get_current_settings

    return f"{get_current_settings().ui_url}/runs"


def in_prefect_run() -> bool:
    """Return whether Prefect runs the flow that calls this."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def in_deployment() -> bool:
    """Return whether a deployment's run calls this, whose parameters somebody else may choose."""
    if "prefect" not in sys.modules:
        return False
    from prefect.runtime import deployment

    return deployment.id is not None


def scheduled_start() -> datetime:
    """Return the time for which the run is scheduled; now, where Prefect does not run the flow."""
    if not in_prefect_run():
        from storage.records import now  # not at once: with it numpy is imported

        return now()
    from prefect.runtime import flow_run

    start: datetime = flow_run.scheduled_start_time
    return start


def run_parameters() -> dict[str, Any]:
    """Return the parameters that Prefect runs the flow with."""
    from prefect.runtime import flow_run

    given: dict[str, Any] = flow_run.parameters
    return given


def _may_be_named() -> bool:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    files = (home / "profiles.toml", Path("prefect.toml"), Path(".env"))
    return (
        any(os.environ.get(name) for name in NAMING)
        or any(file.is_file() for file in files)
        or _is_configured_in(Path("pyproject.toml"))
    )


def _is_configured_in(project: Path) -> bool:
    try:
        if not project.is_file() or project.stat().st_size > MOST_SETTINGS:
            return False
        return "prefect" in tomllib.loads(project.read_text()).get("tool", {})
    except (OSError, ValueError):  # there is none, or it is another program's to complain about
        return False
