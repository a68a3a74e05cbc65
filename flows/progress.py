"""What a person at a terminal sees while work goes on; standard output stays for the outcome."""

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)


def tell(text: str) -> None:
    """Say something on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def progress_bar() -> Progress:
    """A bar on standard error where a person is looking, and nothing elsewhere."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
