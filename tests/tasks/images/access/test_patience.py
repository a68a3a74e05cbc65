"""A read that does not answer is left behind, and whoever waits goes on."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.images.access import patience
from tasks.images.access.patience import Progress, TimedOutError, answered, wait_at_most
from tests.support.paths import ROOT

LIMIT = 0.1


@pytest.fixture
def silence() -> Iterator[Callable[[], None]]:
    """A read that answers when the test is over."""
    over = threading.Event()
    wait_at_most(LIMIT)
    yield lambda: over.wait() and None
    over.set()
    wait_at_most(patience.READ_SECONDS)
    patience._SILENT.clear()


def ask(work: Callable[[], object], progress: Progress | None = None) -> object:
    return answered(work, name="1.png", place=lambda: "/ward/", progress=progress)


def test_an_answer_or_an_error_comes_through(silence: Callable[[], None]) -> None:
    assert ask(lambda: "pixels") == "pixels"
    with pytest.raises(TimeoutError, match="a server's own"):
        ask(lambda: (_ for _ in ()).throw(TimeoutError("a server's own")))


def test_a_read_within_a_read_is_a_part_of_it(silence: Callable[[], None]) -> None:
    threads = ask(lambda: (threading.current_thread(), ask(threading.current_thread)))
    assert isinstance(threads, tuple)
    assert threads[0] is threads[1] is not threading.current_thread()


def test_threads_are_used_again(silence: Callable[[], None]) -> None:
    assert len({ask(threading.get_ident) for _ in range(50)}) == 1


def test_silence_is_given_up_after_the_limit(
    silence: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[float | None]()
    honest = Future.result

    def result(self: "Future[object]", timeout: float | None = None) -> object:
        waited.append(timeout)
        return honest(self, timeout)

    monkeypatch.setattr(Future, "result", result)
    with pytest.raises(TimedOutError, match=r"1\.png has not answered for 0\.1 s: see whether /wa"):
        ask(silence)
    assert waited == [LIMIT]


def test_a_place_that_is_silent_again_and_again_is_left_alone_for_a_while(
    silence: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: now))
    for _ in range(patience.LEAST_SILENCE):
        with pytest.raises(TimedOutError, match="has not answered for"):
            ask(silence)
    now += 0.9 * LIMIT
    with pytest.raises(TimedOutError, match="/ward/ has not answered 3 times in a row"):
        ask(lambda: pytest.fail("it was asked"))
    assert answered(lambda: "others", name="2.png", place=lambda: "/other/") == "others"
    now += 0.2 * LIMIT
    assert ask(lambda: "pixels") == "pixels"
    assert "/ward/" not in patience._SILENT


def test_an_answer_between_two_silences_forgets_the_first(silence: Callable[[], None]) -> None:
    for _ in range(2 * patience.LEAST_SILENCE):
        with pytest.raises(TimedOutError, match="has not answered for"):
            ask(silence)
        assert ask(lambda: "pixels") == "pixels"


def test_long_work_is_waited_for_as_long_as_it_moves(silence: Callable[[], None]) -> None:
    progress = Progress()

    def move(then: Callable[[], object]) -> object:
        for _ in range(10):
            time.sleep(LIMIT / 2)
            progress.advance()
        return then()

    assert ask(lambda: move(lambda: "digest"), progress) == "digest"
    with pytest.raises(TimedOutError):
        ask(lambda: move(silence), progress)


HANGS = """
import sys
from tasks.images.access.patience import answered, wait_at_most
wait_at_most(0.2)
try:
    answered(lambda: open(sys.argv[1]).read(), name="pipe", place=lambda: "/")
except TimeoutError as error:
    print(error)
"""


def test_a_process_ends_though_a_read_hangs_in_the_kernel(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", HANGS, str(tmp_path / "pipe")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert "pipe has not answered for 0.2 s" in done.stdout
