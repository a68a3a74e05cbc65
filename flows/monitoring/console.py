"""Write progress and messages to standard error; standard output stays for the outcome."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flows.monitoring import logs
from flows.outcome import printable
from tasks.images.access.addresses import redact

Result = TypeVar("Result")

# Everything on standard error except errors; `be_quiet` silences it for this process.
CONSOLE = Console(stderr=True)
# A job can take longer than the half minute over which rich measures a rate.
RATE_OVER = 600.0
LINE_EVERY = 10.0  # seconds
# The line that moves at a terminal while a command is silent. Only a command has one: whoever calls
# its function has a terminal of their own.
_MOVING: list[Progress] = []


class RateColumn(ProgressColumn):
    """A column of a progress bar: steps a second, or a minute where they are slow."""

    def render(self, task: Task) -> Text:
        """Write the rate, or nothing while it is unknown."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min")


def be_quiet(quiet: bool) -> None:
    """Silence all but errors and the outcome for this process, or end that silence."""
    CONSOLE.quiet = quiet


def tell(text: str) -> None:
    """Write a message to standard error."""
    if logs.is_json():
        logs.log(logging.INFO, text)
    else:
        CONSOLE.out(printable(redact(text)), highlight=False)


def warn(text: str) -> None:
    """Log a warning for the run, and write it to standard error."""
    logs.log(logging.WARNING, text)
    if not logs.is_json():
        tell(text)


def noting(damaged: list[str]) -> Callable[[str], None]:
    """Make a function that warns of damaged files, and adds each to a list."""

    def note(text: str) -> None:
        damaged.append(text)
        warn(text)

    return note


def complain(text: str) -> None:
    """Write to standard error why a command failed, even where all else is silenced."""
    _stop()
    if logs.is_json():
        logs.log(logging.ERROR, text)
    else:
        sys.stderr.write(f"{printable(redact(text))}\n")


@contextmanager
def moving(text: str) -> Iterator[None]:
    """Show at a terminal, during the block, what a command is doing and for how long."""
    _show(text)
    try:
        yield
    finally:
        _stop()


def _show(text: str) -> None:
    _stop()
    line = _progress(TimeElapsedColumn())
    line.add_task(text, total=None)
    line.start()
    _MOVING[:] = [line]


def _stop() -> None:
    for line in _MOVING:
        line.stop()
    _MOVING.clear()


def working(text: str, *, long: bool = False) -> None:
    """Change what `moving` shows; what may take ``long`` is a line where nothing moves."""
    if _MOVING:
        if long and _shows_nothing():
            tell(text)
        _show(text)


def counted(
    results: Iterator[Result], title: str, total: int | None, *, lines: bool = False
) -> Iterator[Result]:
    """Yield results, and show how many are there: a bar at a terminal, elsewhere ``lines``."""
    lines, told = lines and not sys.stderr.isatty(), time.monotonic()
    for line in _MOVING:
        line.stop()
    try:
        with progress_bar() as bar:
            task = bar.add_task(title, total=total)
            for done, result in enumerate(results, start=1):
                bar.advance(task)
                if lines and total and done < total and time.monotonic() - told > LINE_EVERY:
                    tell(f"{title}: {done:,} of {total:,} jobs done")
                    told = time.monotonic()
                yield result
    finally:
        for line in _MOVING:
            line.start()


def progress_bar() -> Progress:
    """Make a progress bar on standard error that shows only at a terminal."""
    return _progress(BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())


def _progress(*columns: ProgressColumn) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *columns,
        console=CONSOLE,
        disable=_shows_nothing(),
        speed_estimate_period=RATE_OVER,
        transient=True,
    )


def _shows_nothing() -> bool:
    return CONSOLE.quiet or logs.is_json() or not sys.stderr.isatty()
