"""Flows without Dask, under a clock that stands still: a night takes a moment.

What is faulted is the store; the scheduler and the server have their own tests. With the clock
standing still, runs that did the same leave stores that are the same to the last byte.
"""

import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flows.cluster import client
from storage import leases, records

NOW = datetime(2026, 3, 1, 6, tzinfo=UTC)
FLOWS = (
    "flows.smears.commission",
    "flows.fit",
    "flows.smears.night",
    "flows.retract",
    "flows.smears.segment",
)


class Done:
    """A future whose work was done when it was submitted."""

    status = "pending"  # until its result is asked for

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._result, self._error = None, None
        try:
            self._result = work(*arguments)
        except Exception as error:
            self._error = error

    def result(self, timeout: float | None = None) -> Any:
        if self._error is not None:
            raise self._error
        return self._result

    def exception(self) -> Exception | None:
        return self._error

    def done(self) -> bool:
        return True

    def release(self) -> None:
        self._result = None


class Inline:
    """A Dask client whose one worker is the caller."""

    def map(self, work: Callable[[Any], Any], jobs: Iterable[Any], **_: object) -> list[Done]:
        return [Done(work, job) for job in jobs]

    def nthreads(self) -> dict[str, int]:
        return {"here": 1}

    def cancel(self, futures: object, force: bool = False) -> None:
        """Cancel nothing, for all is done."""


def stand_in(told: Path, lifetime: float | None, clock: Sequence[float]) -> None:
    """Let flows in this process run here and now. It is not undone: the process is for one run.

    Args:
        told: a file whose lines are what would be announced.
        lifetime: seconds that a lease lasts, if not as usual.
        clock: seconds by which the time of day is wrong for leases, one look at it after the other.
    """
    if clock:
        wrong, right = cycle(clock), leases._now
        leases._now = lambda: right() + timedelta(seconds=next(wrong))

    @contextmanager
    def open_client(_: object) -> Iterator[Inline]:
        yield Inline()

    def announce(store: object, batch: Any, seal: Any, night: Any, *_: Any, **__: Any) -> None:
        with told.open("a") as file:
            file.write(f"{batch.key} {seal.report_digest} {night['light']}\n")

    if lifetime is not None:
        inner = leases.lease.__wrapped__  # type: ignore[attr-defined]
        inner.__kwdefaults__ |= {"lifetime": lifetime, "beat": lifetime / 4, "poll": lifetime / 10}
    for name in FLOWS:
        importlib.import_module(name)
    replace_everywhere("open_client", client.open_client, open_client)
    call: Any = importlib.import_module("flows.smears.call")
    call.announce = announce
    pages: Any = importlib.import_module("flows.smears.stages.written_pages")
    # What a page is made from, without its pictures, which take longer than the night.
    pages.batch_page = lambda v: f"{v.made_from}\n{v.row}\n{v.slides.to_pylist()}\n{v.command}\n"
    segmentation: Any = importlib.import_module("flows.smears.stages.segmentation")
    segmentation.SOURCES_A_JOB = segmentation.FIELDS_A_JOB = 1
    executor: Any = importlib.import_module("flows.cluster.executor")
    executor.time = SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic)
    replace_everywhere("now", records.now, lambda: NOW)


def replace_everywhere(name: str, real: object, other: object) -> None:
    """Give every module that knows a function by its name another one."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is real:
            setattr(module, name, other)
