"""What a person at a terminal sees while work goes on; standard output stays for the outcome."""

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
    CONSOLE.out(text, highlight=False)


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
        disable=CONSOLE.quiet or not sys.stderr.isatty(),
        speed_estimate_period=RATE_OVER,
        transient=True,
    )
