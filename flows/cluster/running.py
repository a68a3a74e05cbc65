"""Run the jobs of a stage, and report progress to the console and the metrics."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from distributed import Client

from flows.cluster.executor import run_in_order
from flows.monitoring.console import ProgressBar
from flows.monitoring.telemetry import measure_queue

Work = TypeVar("Work")
Result = TypeVar("Result")


def run_jobs(
    client: Client,
    work: Callable[[Work], Result],
    jobs: Iterable[Work],
    *,
    title: str,
    again: Callable[[Work], Work] = lambda job: job,
) -> Iterator[Result]:
    """Run jobs like `run_in_order`, with a progress bar and metrics of the stage's queue."""
    listeners = (ProgressBar(), measure_queue)
    return run_in_order(client, work, jobs, title=title, again=again, listeners=listeners)
