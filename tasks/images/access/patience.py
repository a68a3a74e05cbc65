"""Limit the time that reads may take, and continue without those that do not answer.

A read of a dead mount hangs in the kernel, where nothing interrupts it. So each read runs in a
thread that keeps no process alive, and is abandoned if it does not answer. A place that has not
answered several times in a row gets no requests for a while; otherwise a batch on a dead mount
would wait for the limit once per image.
"""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from tasks.limits import READ_SECONDS

LEAST_SILENCE = 3  # timeouts in a row after which a place gets no requests for one limit

Answer = TypeVar("Answer")


class TimedOutError(TimeoutError):
    """A file, folder or server did not answer within the limit."""


class Progress:
    """The progress of a long read, which may take longer than the limit while it advances."""

    def __init__(self) -> None:
        self.made = 0

    def advance(self) -> None:
        """Record that a part of it is done."""
        self.made += 1


def wait_at_most(seconds: float) -> None:
    """Set the time limit for each read of this process."""
    _LIMIT.seconds = seconds


def answered(
    work: Callable[[], Answer],
    *,
    name: str,
    place: Callable[[], str],
    progress: Progress | None = None,
) -> Answer:
    """Run a read, and return its result or raise its error.

    Args:
        work: runs in another thread; nested calls of this function count as a part of it.
        name: of the file or folder, for messages.
        place: names the mount, archive or server that answers; a nested call does not ask.
        progress: of work that may take longer than the limit, but must advance within it.

    Raises:
        TimedOutError: there is no answer within the limit, or the place did not answer lately.
    """
    if getattr(_HERE, "is_reader", False):
        return work()
    there = place()
    limit, silence = _LIMIT.seconds, _SILENT.get(there)
    left = silence.until - time.monotonic() if silence else 0.0
    if silence and left > 0:
        raise TimedOutError(
            f"{name} is not asked for, because {there} has not answered {silence.times} times in a "
            f"row; it is asked again in {left:.0f} s"
        )
    try:
        answer = _wait(_ask(work), limit, progress)
    except _NoAnswerError:
        if progress is None or not progress.made:
            times = _SILENT.get(there, _Silence()).times + 1
            until = time.monotonic() + limit if times >= LEAST_SILENCE else -math.inf
            _SILENT[there] = _Silence(times, until)
        raise TimedOutError(
            f"{name} has not answered for {limit:g} s: see whether {there} is there, or wait "
            "longer: set read_seconds"
        ) from None
    finally:
        # Any reply counts as an answer, even that there is no such file.
        if silence is not None and _SILENT.get(there) is silence:
            del _SILENT[there]
    return answer


@dataclass
class _Limit:
    seconds: float = READ_SECONDS


@dataclass(frozen=True)
class _Silence:
    """The number of timeouts of a place in a row, and the end of its pause."""

    times: int = 0
    until: float = -math.inf


class _NoAnswerError(Exception):
    """The limit is over."""


@dataclass
class _Reader:
    """A thread that does one piece of reading at a time."""

    inbox: SimpleQueue[tuple[Callable[[], Any], "Future[Any]"]] = field(default_factory=SimpleQueue)

    def run(self) -> None:
        """Read for ever; an abandoned reader takes no new work until its read returns."""
        _HERE.is_reader = True
        while True:
            work, future = self.inbox.get()
            try:
                result = work()
            except BaseException as error:  # it is raised in the waiting thread
                _IDLE.append(self)
                future.set_exception(error)
            else:
                _IDLE.append(self)
                future.set_result(result)
                del result
            # Otherwise the result would stay in memory until the next piece of work.
            del work, future


_LIMIT = _Limit()
_HERE = threading.local()
_IDLE: list[_Reader] = []
_SILENT: dict[str, _Silence] = {}


def _ask(work: Callable[[], Answer]) -> "Future[Answer]":
    """Start a piece of work on an idle reader, or on a new one."""
    future: Future[Answer] = Future()
    try:
        reader = _IDLE.pop()
    except IndexError:
        reader = _Reader()
        threading.Thread(target=reader.run, name="read", daemon=True).start()
    reader.inbox.put((work, future))
    return future


def _wait(future: "Future[Answer]", limit: float, progress: Progress | None) -> Answer:
    seen = progress.made if progress else 0
    while True:
        try:
            return future.result(timeout=limit)
        except TimeoutError:
            if future.done():
                raise
            if progress is None or progress.made == seen:
                raise _NoAnswerError from None
            seen = progress.made
