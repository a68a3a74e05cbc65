"""Decorate flows and stages, which are Prefect's where it was imported, and functions elsewhere.

Without a worker, a deployment or a server, nobody would see Prefect's records.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, cast

from flows.monitoring import logs
from flows.monitoring.console import complain
from flows.options.flows import Options
from flows.prefect.runs import current_run, is_imported, server
from flows.prefect.states import end_state, error_state
from flows.settings import Settings

Parameters = ParamSpec("Parameters")
Taken = TypeVar("Taken", bound=Options)
Result = TypeVar("Result")
RunName = str | Callable[[], str]

_ENDS: ContextVar[list[Any]] = ContextVar("ends")


@dataclass(frozen=True)
class Flow(Generic[Taken, Result]):
    """A flow in a process that has not imported Prefect, whose own flows have ``fn``, too."""

    fn: Callable[[Taken, Settings], Result]
    flow_run_name: RunName | None

    def of_prefect(self) -> Any:
        """Make Prefect's flow of it."""
        from prefect import flow

        return flow(flow_run_name=self.flow_run_name)(self.fn)


def flow(
    *, flow_run_name: RunName | None = None
) -> Callable[[Callable[[Taken, Settings], Result]], Flow[Taken, Result]]:
    """Decorate a flow's function; in Prefect it ends in the state of `flows.prefect.states`."""

    def decorate(function: Callable[[Taken, Settings], Result]) -> Flow[Taken, Result]:
        @wraps(function)
        def fn(options: Taken, settings: Settings) -> Any:
            run = current_run()
            if run is None or run.flow is None or run.flow.fn is not fn:  # called by another flow
                return function(options, settings)
            ends = _ENDS.get([])
            try:
                outcome = function(options, settings)
            except BaseException as error:
                ends.append(error)
                return error_state(error)
            ends.append(outcome)
            return end_state(outcome)

        made = Flow(fn, flow_run_name)
        return cast(Flow[Taken, Result], made.of_prefect()) if is_imported() else made

    return decorate


def run(flow: Flow[Taken, Result], options: Taken, settings: Settings) -> Result:
    """Run a flow, by Prefect where a server is configured; its own outcome or error counts."""
    if server() is None:
        return flow.fn(options, settings)
    ends: list[Any] = []  # one, once the function has ended
    of_prefect: Any = flow.of_prefect() if isinstance(flow, Flow) else flow
    try:
        with logs.setting(_ENDS, ends):
            of_prefect(options, settings, return_state=True)
    except Exception as error:
        if not ends:  # the function was never called
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        complain(f"Prefect did not record how this run ended: {text}")
    if isinstance(ends[0], BaseException):
        raise ends[0]
    outcome: Result = ends[0]
    return outcome


def task(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate the function of a stage, which is a task where Prefect runs the flow."""

    @wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if current_run() is None:
            return function(*args, **kwargs)
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        return task(cache_policy=NO_CACHE)(function)(*args, **kwargs)

    return run
