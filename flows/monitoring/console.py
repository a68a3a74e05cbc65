"""What a person at a terminal sees while work goes on; standard output stays for the outcome."""

import logging
import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flows.monitoring.events import Event, Kind
from flows.monitoring.logs import is_json, log, redact

# All that is said on standard error beside errors; `be_quiet` silences it for this process.
CONSOLE = Console(stderr=True)
# A shard can take longer than the half minute over which rich looks for a rate.
RATE_OVER = 600.0


class RateColumn(ProgressColumn):
    """How many steps are done a second, or a minute where they are slow."""

    def render(self, task: Task) -> Text:
        """The rate, or nothing before there is one."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min")


def be_quiet(quiet: bool) -> None:
    """Say nothing but errors and the outcome from now on, or speak again."""
    CONSOLE.quiet = quiet


def tell(text: str) -> None:
    """Say something on standard error."""
    if is_json():
        log(logging.INFO, text)
    else:
        CONSOLE.out(redact(text), highlight=False)


def warn(text: str) -> None:
    """Say something to whoever looks: at a terminal, or at Prefect's log of the run."""
    log(logging.WARNING, text)
    if not is_json():
        CONSOLE.out(redact(text), highlight=False)


def complain(text: str) -> None:
    """Say on standard error why a command has not ended well, however quiet it is."""
    if is_json():
        log(logging.ERROR, text)
    else:
        sys.stderr.write(f"{redact(text)}\n")


class ProgressBar:
    """Shows a person at a terminal how many jobs are finished, as it hears of them."""

    def __init__(self) -> None:
        self._progress = progress_bar()

    def __call__(self, event: Event) -> None:
        """Begin with the first event, move on with each job, and vanish with the last event."""
        if event.kind is Kind.QUEUED:
            self._progress.add_task(event.title, total=event.total)
            self._progress.start()
        elif event.kind is Kind.FINISHED:
            self._progress.advance(self._progress.task_ids[0])
        elif event.kind is Kind.ENDED:
            self._progress.stop()


def progress_bar() -> Progress:
    """A bar on standard error where a person is looking, and nothing elsewhere."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=CONSOLE,
        disable=CONSOLE.quiet or is_json() or not sys.stderr.isatty(),
        speed_estimate_period=RATE_OVER,
        transient=True,
    )
