"""Wait for reads no longer than a limit, and go on without those that do not answer.

A read of a dead mount hangs in the kernel, where nothing interrupts it. So each read runs in a
thread that keeps no process alive, and one that does not answer is left behind. A place that has
not answered several times in a row is not asked for a while, or a batch on a dead mount would end
after as many limits as it has images.
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

LEAST_SILENCE = 3  # limits in a row after which a place is not asked for as long as one of them

Answer = TypeVar("Answer")


class TimedOutError(TimeoutError):
    """A file, folder or server has not answered within the limit."""


class Progress:
    """Count how far a long piece of reading is: as long as it moves, it is waited for."""

    def __init__(self) -> None:
        self.made = 0

    def advance(self) -> None:
        """Note that a part of it is done."""
        self.made += 1


def wait_at_most(seconds: float) -> None:
    """Limit how long this process waits for each read from now on."""
    _LIMIT.seconds = seconds


def answered(
    work: Callable[[], Answer], *, name: str, place: str, progress: Progress | None = None
) -> Answer:
    """Return what a piece of reading returns, or raise what it raises.

    Args:
        work: is run in another thread; what it reads by this function in turn is a part of it.
        name: of what is read.
        place: what answers or does not, as a whole: a mount, an archive or a server.
        progress: of work that may take longer than the limit, and may not stand still for so long.

    Raises:
        TimedOutError: there is no answer within the limit, or the place has given none of late.
    """
    if getattr(_HERE, "is_reader", False):
        return work()
    limit, silence = _LIMIT.seconds, _SILENT.get(place)
    left = silence.until - time.monotonic() if silence else 0.0
    if silence and left > 0:
        raise TimedOutError(
            f"{name} is not asked for, because {place} has not answered {silence.times} times in a "
            f"row; it is asked again in {left:.0f} s"
        )
    try:
        answer = _wait(_ask(work), limit, progress)
    except _NoAnswerError:
        _note_silence(place, limit)
        raise TimedOutError(
            f"{name} has not answered for {limit:g} s: see whether {place} is there, or wait "
            "longer with --read-seconds"
        ) from None
    finally:
        # Whatever it says, even that there is no such file, it answers.
        if silence is not None and _SILENT.get(place) is silence:
            del _SILENT[place]
    return answer


@dataclass
class _Limit:
    seconds: float = READ_SECONDS


@dataclass(frozen=True)
class _Silence:
    """Tell how often in a row a place has not answered, and until when it is left alone."""

    times: int = 0
    until: float = -math.inf


class _NoAnswerError(Exception):
    """The limit is over."""


@dataclass
class _Reader:
    """A thread that does one piece of reading at a time."""

    inbox: SimpleQueue[tuple[Callable[[], Any], "Future[Any]"]] = field(default_factory=SimpleQueue)

    def run(self) -> None:
        """Read for ever; what is left behind does not take work again until it answers."""
        _HERE.is_reader = True
        while True:
            work, future = self.inbox.get()
            try:
                result = work()
            except BaseException as error:  # it is for the thread that waits
                _IDLE.append(self)
                future.set_exception(error)
            else:
                _IDLE.append(self)
                future.set_result(result)
                del result
            # Or what was read would stay in memory until the next piece.
            del work, future


_LIMIT = _Limit()
_HERE = threading.local()
_IDLE: list[_Reader] = []
_SILENT: dict[str, _Silence] = {}


def _ask(work: Callable[[], Answer]) -> "Future[Answer]":
    """Give a piece of work to an idle reader, or to a new one."""
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


def _note_silence(place: str, limit: float) -> None:
    times = _SILENT.get(place, _Silence()).times + 1
    until = time.monotonic() + limit if times >= LEAST_SILENCE else -math.inf
    _SILENT[place] = _Silence(times, until)
