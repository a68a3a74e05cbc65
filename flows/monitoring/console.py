"""Write progress and messages to standard error; standard output stays for the outcome."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

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

from flows.monitoring import events, logs
from flows.outcome import printable
from tasks.images.access.addresses import redact

# Everything on standard error except errors; `be_quiet` silences it for this process.
CONSOLE = Console(stderr=True)
# A job can take longer than the half minute over which rich measures a rate.
RATE_OVER = 600.0
LINE_EVERY = 10.0  # seconds


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
        CONSOLE.out(printable(redact(text)), highlight=False)


def complain(text: str) -> None:
    """Write to standard error why a command failed, even where all else is silenced."""
    _MOVING.end()
    if logs.is_json():
        logs.log(logging.ERROR, text)
    else:
        sys.stderr.write(f"{printable(redact(text))}\n")


class _Moving:
    """The line that moves at a terminal while a command is silent: what it does, for how long."""

    def __init__(self) -> None:
        self.begun, self._shown = False, ""
        self._line: Progress | None = None

    def begin(self) -> None:
        self.begun = True

    def show(self, text: str) -> None:
        """Show another text, whose time starts at zero."""
        if self.begun and text != self._shown:
            self.pause()
            self._shown = text
            self.resume()

    def pause(self) -> None:
        """Take the line away, because a bar is shown instead."""
        if self._line is not None:
            self._line.stop()
            self._line = None

    def resume(self) -> None:
        if self.begun and self._line is None:
            self._line = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=CONSOLE,
                disable=_shows_nothing(),
                transient=True,
            )
            self._line.add_task(self._shown, total=None)
            self._line.start()

    def end(self) -> None:
        self.pause()
        self.begun, self._shown = False, ""


# Only a command has a line that moves: whoever calls its function has a terminal of their own.
_MOVING = _Moving()


@contextmanager
def moving(text: str) -> Iterator[None]:
    """Show at a terminal, during the block, what a command is doing and for how long."""
    _MOVING.begin()
    _MOVING.show(text)
    try:
        yield
    finally:
        _MOVING.end()


def working(text: str, *, long: bool = False) -> None:
    """Change what `moving` shows; do nothing outside of it.

    If it may take ``long``, a line says so where nothing moves.
    """
    if long and _MOVING.begun and _shows_nothing():
        tell(text)
    _MOVING.show(text)


class ProgressBar:
    """A listener that shows at a terminal how many jobs are finished.

    Elsewhere it is silent, or with ``lines`` writes one every `LINE_EVERY` seconds.
    """

    def __init__(self, *, lines: bool = False) -> None:
        self._progress = progress_bar()
        self._lines, self._told = lines and not sys.stderr.isatty(), time.monotonic()

    def __call__(self, event: events.Event) -> None:
        """Begin with the first event, advance with each job, and vanish with the last event."""
        if event.kind is events.Kind.QUEUED:
            _MOVING.pause()
            self._progress.add_task(event.title, total=event.total)
            self._progress.start()
        elif event.kind is events.Kind.FINISHED:
            self._progress.advance(self._progress.task_ids[0])
            if self._lines and event.waiting and time.monotonic() - self._told > LINE_EVERY:
                tell(f"{event.title}: {event.finished:,} of {event.total:,} jobs done")
                self._told = time.monotonic()
        elif event.kind is events.Kind.ENDED:
            self._progress.stop()
            _MOVING.resume()


def progress_bar() -> Progress:
    """Make a progress bar on standard error that shows only at a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=CONSOLE,
        disable=_shows_nothing(),
        speed_estimate_period=RATE_OVER,
        transient=True,
    )


def _shows_nothing() -> bool:
    return CONSOLE.quiet or logs.is_json() or not sys.stderr.isatty()
