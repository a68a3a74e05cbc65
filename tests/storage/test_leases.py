import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from storage import leases, processes
from storage.batches.manifests import list_batches
from storage.leases import HeldByOtherError, Holder, Lease, LeaseLostError, LeaseRecord, lease
from storage.models.statistics import list_statistics
from storage.store import AlreadyExistsError, MissingError, Store, StoreError, refuse_foreign
from tests.support.waiting import until

NIGHT = ("batches", "night")
NEVER = 1e6


class Clock:
    """The time of day, which passes when a test says so."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 3, 22, tzinfo=UTC)
        self.since = 0.0

    def __call__(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.since += seconds

    def awake(self) -> float:
        return self.since


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "_now", clock)
    times = SimpleNamespace(monotonic=clock.awake, sleep=clock.forward, time=time.time)
    monkeypatch.setattr(leases, "time", times)
    return clock


def records(store: Store) -> list[str]:
    return store.names(*NIGHT, "lease")


def read(store: Store, number: int) -> LeaseRecord:
    return LeaseRecord.read(store, *NIGHT, "lease", f"{number:06d}.json")


def holder(**other: Any) -> Holder:
    return leases._this_process().model_copy(update={"owner": "somebody", **other})


def leave(store: Store, number: int = 1, seconds: float = 60, **other: Any) -> LeaseRecord:
    """Leave a record behind as a holder would that said no more."""
    now = leases._now()
    left = LeaseRecord(
        holder=holder(**other), taken_at=now, expires_at=now + timedelta(seconds=seconds)
    )
    left.write(store, *NIGHT, "lease", f"{number:06d}.json")
    return left


def is_held(store: Store) -> bool:
    try:
        with lease(store, *NIGHT):
            return False
    except HeldByOtherError:
        return True


def before_each_create(
    monkeypatch: pytest.MonkeyPatch, *happenings: Callable[[], object]
) -> list[Callable[[], object]]:
    """What happens between the look at a lease and the attempt to create the next number."""
    left, create = list(happenings), leases._try_to_create

    def try_to_create(*arguments: Any) -> None:
        if left:
            left.pop(0)()
        create(*arguments)

    monkeypatch.setattr(leases, "_try_to_create", try_to_create)
    return left


# Taking and giving back


def test_a_folder_of_other_things_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    refuse_foreign(Store(str(tmp_path)))
    (tmp_path / "hosts").touch()
    with pytest.raises(StoreError, match="is no store, and has hosts"), lease(Store(str(tmp_path))):
        pass


def test_a_lease_is_held_during_the_block_and_released_after_it(any_store: Store) -> None:
    with lease(any_store, *NIGHT) as held:
        held.check()
        assert records(any_store) == ["000001.json"]
        record = read(any_store, 1)
        assert not record.released
        assert record.holder.pid == os.getpid()
        assert record.expires_at - record.taken_at < timedelta(seconds=leases.LIFETIME + 30)
        assert is_held(any_store)
    assert read(any_store, 1).released
    with pytest.raises(LeaseLostError, match="was released"):
        held.check()


def test_records_do_not_accumulate_and_numbers_rise(any_store: Store) -> None:
    for number in range(1, 8):
        with lease(any_store, *NIGHT) as held:
            assert held.number == number
        assert records(any_store) == [f"{number:06d}.json"]


def test_a_lease_is_no_batch_and_no_version_of_the_statistics(any_store: Store) -> None:
    with lease(any_store, *NIGHT), lease(any_store, "statistics", "model"):
        assert list_batches(any_store) == []
        assert list_statistics(any_store, "model") == []


def test_who_finds_it_held_is_told_by_whom_since_when_and_what_to_do(
    any_store: Store, clock: Clock
) -> None:
    leave(any_store, host="gpu-7", pid=4711, user="ana", command="slidewatch screen")
    with pytest.raises(HeldByOtherError) as caught, lease(any_store, *NIGHT):
        pass
    message = str(caught.value)
    for part in (
        any_store.address(*NIGHT),
        "ana on gpu-7 (process 4711, slidewatch screen)",
        "since 2026-01-03 22:00:00 UTC",
        "after 2026-01-03 22:01:00 UTC",
        "--wait",
        "stop that process",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/venv/bin/slidewatch", "screen", "--images", "s3://a:secret@b"], "slidewatch screen"),
        (["slidewatch", "review", "serve", "secret"], "slidewatch review serve"),
        (["slidewatch", "https://host/file?signature=secret"], "slidewatch"),
        (["slidewatch", "--token", "secret"], "slidewatch"),
        ([""], "python"),
    ],
)
def test_a_record_says_which_command_but_none_of_its_options(
    arguments: list[str], command: str
) -> None:
    assert processes.command_of(arguments) == command


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_releases(any_store: Store, error: type[BaseException]) -> None:
    with pytest.raises(error, match="of the block"), lease(any_store, *NIGHT):
        raise error("of the block")
    assert not is_held(any_store)


@pytest.mark.parametrize("error", [OSError, StoreError, RuntimeError])
def test_a_release_that_fails_hides_neither_the_blocks_error_nor_its_success(
    store: Store, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("storage is away")

    with lease(store, "batches", "other"):
        monkeypatch.setattr(LeaseRecord, "write", fail)
    monkeypatch.undo()
    monkeypatch.setattr(Lease, "release", fail)
    with pytest.raises(KeyError, match="of the block"), lease(store, *NIGHT):
        raise KeyError("of the block")
    assert is_held(store)


# One at a time


def test_many_processes_lose_no_update(store: Store, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = """if True:
        import sys, time
        from pathlib import Path
        from storage.leases import lease
        from storage.store import Store
        store, counter = Store(sys.argv[1]), Path(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(15):
            with lease(store, "batches", "night", wait=True, poll=0.005, beat=0.01) as held:
                value = int(counter.read_text())
                time.sleep(0.001)
                counter.write_text(str(value + 1))
                held.check()
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(running(script, store.url, str(counter))) for _ in range(4)]
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.close()
        assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]
    assert counter.read_text() == "60"
    assert records(store)[-1] == "000060.json"


@pytest.mark.parametrize("seconds", [0, 60])
def test_of_many_takers_exactly_one_wins(store: Store, seconds: float) -> None:
    """Of a lease that ran out, and of one whose holder is dead."""
    leave(store, 5, seconds=seconds, pid=dead_pid())
    start, tried = threading.Barrier(8), threading.Barrier(8)

    def take(_: int) -> int:
        start.wait(30)
        with ExitStack() as stack:
            try:
                return stack.enter_context(lease(store, *NIGHT)).number
            except HeldByOtherError:
                return 0
            finally:
                tried.wait(30)

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(take, range(8)))
    assert sorted(numbers) == [0] * 7 + [6]


def test_who_comes_second_between_look_and_create_has_lost(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = before_each_create(monkeypatch, lambda: leave(any_store, 1, user="the other"))
    with pytest.raises(HeldByOtherError, match="the other"), lease(any_store, *NIGHT):
        pass
    assert left == []
    assert read(any_store, 1).holder.user == "the other"


def test_a_slow_taker_gets_no_number_that_was_used_and_removed(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees nobody; then 1 is taken and given back, and 2 is taken, for which 1 is removed."""
    others = ExitStack()

    def two_others() -> None:
        with lease(any_store, *NIGHT):
            pass
        others.enter_context(lease(any_store, *NIGHT))
        assert records(any_store) == ["000002.json"]

    left = before_each_create(monkeypatch, two_others)
    with others:
        with pytest.raises(HeldByOtherError), lease(any_store, *NIGHT):
            pass
        assert left == []
    with lease(any_store, *NIGHT):
        assert records(any_store) == ["000003.json"]


@pytest.mark.parametrize("error", [AlreadyExistsError, OSError])
def test_who_created_the_record_but_was_told_otherwise_holds_the_lease(
    any_store: Store, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """An object store's client repeats a request whose answer was lost, and meets itself."""
    write = LeaseRecord.write

    def write_and_deny(record: LeaseRecord, *where: Any, once: bool = False) -> None:
        write(record, *where, once=once)
        if once:
            raise error("412")

    monkeypatch.setattr(LeaseRecord, "write", write_and_deny)
    with lease(any_store, *NIGHT) as held:
        held.check()


def test_a_lost_race_is_recognised_whatever_the_object_store_calls_it(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(record: LeaseRecord, *where: Any, once: bool = False) -> None:
        monkeypatch.undo()
        leave(any_store, 1)
        raise OSError(22, "At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(LeaseRecord, "write", lose)
    with pytest.raises(HeldByOtherError), lease(any_store, *NIGHT):
        pass


def test_storage_that_fails_is_no_lost_race(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(LeaseRecord, "write", fail)
    with pytest.raises(PermissionError, match="read-only"), lease(any_store, *NIGHT, wait=True):
        pass


# Waiting


def test_who_waits_gets_it_after_the_release_and_is_told_once(store: Store) -> None:
    told: list[str] = []
    order: list[str] = []

    def work() -> None:
        with lease(store, *NIGHT, wait=True, on_wait=told.append, poll=0.005):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with lease(store, *NIGHT):
            second = pool.submit(work)
            until(lambda: bool(told))
            time.sleep(0.05)
            order.append("first")
        second.result(30)
    assert order == ["first", "second"]
    assert len(told) == 1
    assert f"process {os.getpid()}" in told[0]
    assert "waiting" in told[0]


# Dead holders


def running(script: str, *arguments: str) -> "subprocess.Popen[str]":
    """A process that has begun its work: it said so in one line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(leases.__file__).parents[1])},
    )
    assert process.stdout
    assert process.stdout.readline()
    return process


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait(30)
    return process.pid


@pytest.fixture
def other_run(store: Store) -> Iterator["subprocess.Popen[str]"]:
    """A run that holds the lease until it is killed."""
    script = """if True:
        import sys, time
        from storage.leases import lease
        from storage.store import Store
        with lease(Store(sys.argv[1]), "batches", "night"):
            print("held", flush=True)
            time.sleep(600)
    """
    with running(script, store.url) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_holder_that_was_killed_on_this_host_is_followed_at_once(
    store: Store, other_run: "subprocess.Popen[str]", reaped: bool
) -> None:
    """Also where its parent has not asked after it yet, which a container's may never do."""
    with pytest.raises(HeldByOtherError, match=f"process {other_run.pid}"), lease(store, *NIGHT):
        pass
    other_run.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other_run.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    assert read(store, 1).expires_at > datetime.now(UTC)
    with lease(store, *NIGHT) as held:
        assert held.number == 2
        assert records(store) == ["000002.json"]


def test_a_pid_that_another_process_has_now_is_a_dead_holder(any_store: Store) -> None:
    started = processes.started(psutil.Process())
    leave(any_store, process_started=started)
    assert is_held(any_store)
    leave(any_store, process_started=started - 100)
    assert not is_held(any_store)


@pytest.mark.parametrize(
    "elsewhere", [{"host": "elsewhere"}, {"processes": "another boot or container"}]
)
def test_a_holder_elsewhere_is_followed_when_its_lease_has_run_out_and_not_before(
    any_store: Store, clock: Clock, elsewhere: dict[str, str]
) -> None:
    leave(any_store, pid=dead_pid(), **elsewhere)
    clock.forward(59)
    assert is_held(any_store)
    clock.forward(1)
    assert not is_held(any_store)


def test_a_dead_holder_whose_clock_is_ahead_is_followed_after_a_lifetime(
    any_store: Store, clock: Clock
) -> None:
    leave(any_store, seconds=3600, host="elsewhere", process_started=1.0)
    assert not is_held(any_store)
    assert clock.awake() < 65


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("hours", [-5, 0, 5])
def test_a_living_holder_keeps_its_lease_whatever_the_clocks_say(
    any_store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, wait: bool, hours: int
) -> None:
    """Its record is of another clock, and is renewed while somebody watches it."""
    theirs = {"host": "elsewhere", "process_started": 1.0}
    leave(any_store, seconds=3600 * hours, **theirs)
    until_ended = iter(range(12))

    def renew(seconds: float) -> None:
        clock.forward(10 * seconds)  # fewer looks than a second apart
        number = next(until_ended, None)
        left = leave(any_store, seconds=3600 * hours + (number or 0), **theirs)
        if number is None:  # it releases the lease after two minutes
            left.model_copy(update={"released": True}).write(
                any_store, *NIGHT, "lease", "000001.json"
            )

    monkeypatch.setattr(leases.time, "sleep", renew)
    if not wait:
        assert is_held(any_store)
        return
    with lease(any_store, *NIGHT, wait=True) as held:
        assert next(until_ended, None) is None
        held.check()


def test_a_holder_whose_process_is_hidden_from_us_is_not_taken_for_dead(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(pid: int, _: int) -> None:
        raise PermissionError(pid)

    def hidden(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    left = leave(store)
    monkeypatch.setattr(os, "kill", forbidden)
    monkeypatch.setattr(psutil, "Process", hidden)
    assert not leases._is_dead(left.holder)


# The heartbeat


def test_a_heart_that_beats_keeps_a_short_lease_for_long(store: Store, clock: Clock) -> None:
    with lease(store, *NIGHT, lifetime=3, beat=0.002) as held:
        for _ in range(10):
            clock.forward(2)
            until(lambda: read(store, 1).expires_at == clock() + timedelta(seconds=3))
            assert is_held(store)
            held.check()
    assert read(store, 1).taken_at == clock() - timedelta(seconds=20)


def failing_writes(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    """Make every write of a record fail, and count the attempts."""
    attempts: list[int] = []

    def fail(*_: object, **__: object) -> None:
        attempts.append(1)
        raise error

    monkeypatch.setattr(LeaseRecord, "write", fail)
    return attempts


@pytest.mark.parametrize("error", [OSError("away"), StoreError("away"), RuntimeError("away")])
def test_a_beat_that_fails_is_tried_again(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with lease(store, *NIGHT, beat=0.002) as held:
        with monkeypatch.context() as broken:
            attempts = failing_writes(broken, error)
            clock.forward(50)
            until(lambda: len(attempts) > 3)
            held.check()
        until(lambda: read(store, 1).expires_at == clock() + timedelta(seconds=60))
        # It waits for the renewal to end: time must not pass between its write and its look.
        held.check()
        clock.forward(50)
        held.check()


# Fencing


def test_a_holder_that_slept_too_long_learns_who_is_the_writer_now(
    any_store: Store, clock: Clock
) -> None:
    with lease(any_store, *NIGHT, beat=NEVER) as sleeper:
        clock.forward(61)
        with lease(any_store, *NIGHT, beat=NEVER) as other:
            for _ in range(2):
                with pytest.raises(LeaseLostError, match=r"taken over by .* at 2026-01-03 22:02"):
                    sleeper.check()
                with pytest.raises(LeaseLostError, match="taken over"):
                    sleeper.renew()
            sleeper.release()
            other.check()
            assert records(any_store) == ["000002.json"]
            assert is_held(any_store)


def test_a_holder_that_slept_alone_goes_on(any_store: Store, clock: Clock) -> None:
    with lease(any_store, *NIGHT, beat=NEVER) as sleeper:
        clock.forward(600)
        sleeper.renew()
        sleeper.store.write_bytes(b"late", "file")


def test_a_holder_that_misses_what_its_successor_removed_is_told_of_the_successor(
    any_store: Store, clock: Clock
) -> None:
    def misses(*, slept: float) -> None:
        with lease(any_store, *NIGHT, beat=NEVER):
            clock.forward(slept)
            with lease(any_store, *NIGHT, beat=NEVER) if slept else nullcontext():
                any_store.read_bytes(*NIGHT, "gone")

    with pytest.raises(LeaseLostError, match="taken over by"):
        misses(slept=61)
    with pytest.raises(MissingError, match="gone"):
        misses(slept=0)


def test_a_lease_that_was_removed_is_lost(any_store: Store) -> None:
    with lease(any_store, *NIGHT, beat=NEVER) as held:
        any_store.remove(*NIGHT, "lease")
        with pytest.raises(LeaseLostError, match="was removed"):
            held.check()
        # Its number is given out again, but not its owner.
        with lease(any_store, *NIGHT, beat=NEVER) as other:
            assert other.number == held.number
            with pytest.raises(LeaseLostError, match="taken over"):
                held.renew()
            held.release()
            other.check()


# Damage


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not valid JSON"),
        (b"\xff\x00", "not valid JSON"),
        (b'{"released": true}', "holder: Field required"),
        (b'{"schema_version": 9, "released": true, "fence": 1}', "a newer slidewatch"),
    ],
)
@pytest.mark.parametrize("wait", [True, False])
def test_a_damaged_record_is_an_error_and_no_invitation(
    any_store: Store, content: bytes, complaint: str, wait: bool
) -> None:
    any_store.write_bytes(content, *NIGHT, "lease", "000003.json")
    with pytest.raises(StoreError) as caught, lease(any_store, *NIGHT, wait=wait):
        pass
    assert not isinstance(caught.value, HeldByOtherError)
    for part in ("nobody can tell who", complaint, "lease/000003.json", "remove that file"):
        assert part in str(caught.value)
    assert records(any_store) == ["000003.json"]


def test_a_holder_whose_record_was_damaged_may_not_publish(any_store: Store) -> None:
    with lease(any_store, *NIGHT, beat=NEVER) as held:
        any_store.write_bytes(b"", *NIGHT, "lease", "000001.json")
        with pytest.raises(StoreError, match="nobody can tell"):
            held.check()


def test_what_lies_below_the_highest_number_or_is_no_record_does_not_matter(
    any_store: Store,
) -> None:
    any_store.write_bytes(b"damaged", *NIGHT, "lease", "000001.json")
    any_store.write_bytes(b"a note", *NIGHT, "lease", "readme.txt")
    leave(any_store, 2, pid=dead_pid())
    with lease(any_store, *NIGHT) as held:
        assert held.number == 3
        assert records(any_store) == ["000003.json", "readme.txt"]


def test_numbers_are_compared_as_numbers(any_store: Store) -> None:
    leave(any_store, 999_999, pid=dead_pid())
    for number in (1_000_000, 1_000_001):
        with lease(any_store, *NIGHT) as held:
            assert held.number == number


def test_a_record_that_vanishes_while_it_is_looked_at_is_no_damage(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(any_store, 1, pid=dead_pid())
    read_record = LeaseRecord.read

    def read_late(*where: str) -> LeaseRecord:
        monkeypatch.undo()
        leave(any_store, 2, user="the other")
        any_store.remove(*NIGHT, "lease", "000001.json")
        return read_record(*where)

    monkeypatch.setattr(LeaseRecord, "read", read_late)
    with pytest.raises(HeldByOtherError, match="the other"), lease(any_store, *NIGHT):
        pass
