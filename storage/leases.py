"""Let one run write at a time: in ``<what>/lease/<number>.json`` the highest number counts.

The run that creates the next number holds the lease, for a store lets only one run create it. The
holder renews its record while it works and releases it at the end. Another run may create the next
number once the highest is released, has run out, or belongs to a process that is certainly dead;
none of these can be undone, so a former holder never gets the lease back: its `Lease.check` fails.
A check tells of the past: between it and a write the process may stall, and another run take over.
So what the holder of a lease publishes goes through `Lease.store`, where that is too late.

A holder knows by a clock that nobody sets, and which goes on while the machine sleeps, how long its
own lease lasts. Other runs compare its record with the time of day on their host. A holder that
works renews every `BEAT` and so always has most of `LIFETIME` left: clocks may differ by `LIFETIME`
- `BEAT` before it is taken for dead. When its own time of day is set back, its records go on from
the time at which it took the lease, so that they do not seem to have run out. None of this decides
who may write: a holder that is taken for dead by mistake is fenced off like any other.
"""

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from threading import Event, Lock, Thread
from uuid import uuid4

import psutil
from pydantic import AwareDatetime

from storage import fences
from storage.records import Part, Record
from storage.store import AlreadyExistsError, Store, StoreError

# Seconds until a lease that is not renewed runs out, and between two renewals: several may fail.
LIFETIME = 60.0
BEAT = 10.0


class HeldByOtherError(StoreError):
    """Another run holds the lease."""


class LeaseLostError(StoreError):
    """A run has lost its lease: what it publishes now could spoil another run's work."""


class Holder(Part):
    """The process that holds a lease; ``owner`` is new each time one is asked for.

    A pid means something only within ``processes``, and together with ``process_started``
    (seconds after the boot), as pids are used again.
    """

    owner: str
    host: str
    processes: str
    pid: int
    process_started: float
    user: str
    command: str


class LeaseRecord(Record):
    """The record of a lease: its holder, and when it runs out unless it is renewed."""

    holder: Holder
    taken_at: AwareDatetime
    expires_at: AwareDatetime
    released: bool = False


class Lease:
    """The right of one run to write: what it publishes, it writes to ``store``.

    ``number`` rises with every holder. ``stage`` names the folder without which a local store
    takes nothing more from this run. ``since`` is when the record's lifetime began, by `_awake`.
    """

    def __init__(
        self,
        store: Store,
        folder: tuple[str, ...],
        number: int,
        record: LeaseRecord,
        since: float,
    ) -> None:
        self._store = store
        self._folder = folder
        self.number = number
        self.stage = fences.stage_of(folder[:-1], number, record.holder.owner)
        self.store = store.fenced(self)
        self._record = record
        self._taken = since
        self._ends = since + (record.expires_at - record.taken_at).total_seconds()
        self._lock = Lock()

    def check(self) -> None:
        """Check that this run still holds the lease.

        Raises:
            LeaseLostError: it ran out, was released or removed, or another run took it over.
            StoreError: the record is damaged, so the holder is not known.
        """
        with self._lock:
            self._check()

    def renew(self, lifetime: float = LIFETIME) -> None:
        """Renew the lease; LeaseLostError where this run holds it no more."""
        with self._lock:
            self._check()
            began = _awake()
            # By the later of two clocks: one that is set back must not let the record run out.
            unset = self._record.taken_at + timedelta(seconds=began - self._taken)
            renewed = _extended(self._record, max(_now(), unset), lifetime)
            renewed.write(self._store, *self._folder, _file(self.number))
            # What arrived after the old expiry may have crossed with somebody taking over.
            if _awake() < self._ends:
                self._record, self._ends = renewed, began + lifetime

    def release(self) -> None:
        """Release the lease; nothing happens where another run holds it already."""
        with self._lock:
            self._record = self._record.model_copy(update={"released": True})
            _, current = _current(self._store, self._folder)
            if current and self._is_mine(current):
                self._record.write(self._store, *self._folder, _file(self.number))

    def successor(self) -> str | None:
        """Say who has taken the lease over, and when; None where nobody is known to have."""
        _, current = _current(self._store, self._folder)
        if current is None or self._is_mine(current):
            return None
        return f"{_who(current.holder)} at {_when(current.taken_at)}"

    def _check(self) -> None:
        _, current = _current(self._store, self._folder)
        # The clock is read last: the answer may have taken its time.
        if self._record.released:
            why = "was released"
        elif current is None:
            why = "was removed"
        elif not self._is_mine(current):
            why = f"was taken over by {_who(current.holder)} at {_when(current.taken_at)}"
        elif _awake() >= self._ends:
            why = f"could not be renewed and ran out at {_when(self._record.expires_at)}"
        else:
            return
        raise LeaseLostError(
            f"the lease {self._store.address(*self._folder)} {why}: this run stops before it "
            "writes more; run the same command again to go on"
        )

    def _is_mine(self, record: LeaseRecord) -> bool:
        return record.holder.owner == self._record.holder.owner


@contextmanager
def lease(
    store: Store,
    *what: str,
    wait: bool = False,
    on_wait: Callable[[str], None] = lambda message: None,
    lifetime: float = LIFETIME,
    beat: float = BEAT,
    poll: float = 1.0,
) -> Iterator[Lease]:
    """Hold the lease of ``what``, such as ``"batches", "night-1"``, during the block.

    With ``wait`` it waits, looking every ``poll`` seconds, and tells each holder that it waits
    for to ``on_wait``. It does not know its own thread again: taken twice, it waits for itself.

    Raises:
        HeldByOtherError: another run is the writer, and ``wait`` was not asked for.
        StoreError: the record of the present holder is damaged.
    """
    folder = (*what, "lease")
    held = _take(store, folder, wait, on_wait, lifetime, poll)
    stop = Event()
    heart = Thread(target=_keep_alive, args=(held, stop, beat, lifetime), daemon=True)
    heart.start()
    try:
        _fence_off_others(held, store, what)
        _remove_below(store, folder, held.number)
        yield held
    finally:
        stop.set()
        heart.join()
        # It runs out by itself; a failure here must not hide the block's own, nor undo its work.
        with suppress(Exception):
            fences.close_stage(store, held.stage)
            held.release()


def _fence_off_others(held: Lease, store: Store, what: tuple[str, ...]) -> None:
    """Make this holder's folder of stages, and remove those of all who held the lease before."""
    fences.open_stage(store, held.stage)
    # A successor that took over before that folder was there has not seen it.
    held.check()
    fences.close_others(store, what, held.number, held.stage)
    sweep(store)


def sweep(store: Store) -> int:
    """Remove the stages of a day ago and older that killed runs have left; count them."""

    def is_held(what: tuple[str, ...], number: int) -> bool:
        try:
            highest, record = _current(store, (*what, "lease"))
        except StoreError:  # damaged: nobody can tell
            return True
        return record is not None and highest == number and not _is_free(record, _now())

    return fences.sweep(store, is_held)


def _take(
    store: Store,
    folder: tuple[str, ...],
    wait: bool,
    on_wait: Callable[[str], None],
    lifetime: float,
    poll: float,
) -> Lease:
    holder = _this_process()
    told, arrived, began = "", _now(), _awake()
    came = began
    while True:
        # Before the look: a record that was renewed since must not seem to have run out. Nor must
        # one whose holder lives when the time of day is set ahead while this run waits.
        asked_at = min(_now(), arrived + timedelta(seconds=_awake() - came))
        number, current = _current(store, folder)
        if current is None or _is_free(current, asked_at):
            began = _awake()
            _try_to_create(store, folder, number + 1, holder, lifetime)
        elif current.holder.owner == holder.owner:
            return Lease(store, folder, number, current, began)
        else:
            held = (
                f"{store.address(*folder[:-1])} is being worked on by {_who(current.holder)} "
                f"since {_when(current.taken_at)}"
            )
            if not wait:
                raise HeldByOtherError(
                    f"{held}: wait for it with --wait, or stop that process; if it died, the "
                    f"same command can take over after {_when(current.expires_at)}"
                )
            if told != current.holder.owner:
                on_wait(f"{held}: waiting for it to end")
                told = current.holder.owner
            time.sleep(poll)


def _try_to_create(
    store: Store, folder: tuple[str, ...], number: int, holder: Holder, lifetime: float
) -> None:
    """Try to create a lease's record; the holder of the highest number afterwards has won.

    Success proves nothing: before a slow run creates a number, others may have held, released and
    removed it. Nor does failure: the store may have lost its answer to a first attempt.
    """
    began = _now()
    record = LeaseRecord(holder=holder, taken_at=began, expires_at=began)
    record = _extended(record, began, lifetime)
    try:
        record.write(store, *folder, _file(number), once=True)
    except (AlreadyExistsError, OSError):
        # A lost race has many names on object stores: S3 says 412 or 409, s3fs EINVAL or EBUSY.
        if _highest(store, folder) < number:
            raise


def _keep_alive(held: Lease, stop: Event, beat: float, lifetime: float) -> None:
    while not stop.wait(beat):
        try:
            held.renew(lifetime)
        except LeaseLostError:
            return
        except Exception:
            # Whatever a storage client raises, the next beat may fare better.
            continue


def _current(store: Store, folder: tuple[str, ...]) -> tuple[int, LeaseRecord | None]:
    """Read the highest number and its record; 0 and None where nobody ever held the lease."""
    while number := _highest(store, folder):
        try:
            return number, LeaseRecord.read(store, *folder, _file(number))
        except StoreError as error:
            # Between the two looks another may have taken the lease and removed this record.
            if _highest(store, folder) == number:
                raise StoreError(
                    f"nobody can tell who is writing {store.address(*folder[:-1])}: {error}; make "
                    "sure that no run is at work on it, and remove that file"
                ) from None
    return 0, None


def _highest(store: Store, folder: tuple[str, ...]) -> int:
    return max(_numbers(store, folder), default=0)


def _numbers(store: Store, folder: tuple[str, ...]) -> list[int]:
    return [
        int(name.removesuffix(".json"))
        for name in store.names(*folder)
        if re.fullmatch(r"[0-9]{6,}\.json", name)
    ]


def _file(number: int) -> str:
    return f"{number:06d}.json"


def _remove_below(store: Store, folder: tuple[str, ...], number: int) -> None:
    for each in _numbers(store, folder):
        if each < number:
            with suppress(FileNotFoundError):
                store.remove(*folder, _file(each))


def _is_free(record: LeaseRecord, at: datetime) -> bool:
    return record.released or record.expires_at <= at or _is_dead(record.holder)


def _is_dead(holder: Holder) -> bool:
    """Tell whether the holder has surely ended; False where that cannot be seen from here."""
    if (holder.host, holder.processes) != (socket.gethostname(), _processes()):
        return False
    try:
        # Not psutil.pid_exists: it denies processes of others where /proc hides them.
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        process = psutil.Process(holder.pid)
        # The boot's time of day is known to the second only.
        is_another = abs(_started(process) - holder.process_started) > 2
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _this_process() -> Holder:
    process = psutil.Process()
    return Holder(
        owner=uuid4().hex,
        host=socket.gethostname(),
        processes=_processes(),
        pid=process.pid,
        process_started=_started(process),
        user=process.username(),
        command=_command(sys.argv),
    )


def _processes() -> str:
    """Name the space that pids are unique in: a boot and, for containers, a pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(process: psutil.Process) -> float:
    """Compute a process's start in seconds after the boot, which setting the clock leaves alone."""
    return process.create_time() - psutil.boot_time()


def _command(arguments: list[str]) -> str:
    """Name the program and its command without options, for these may hold passwords."""
    return " ".join([Path(arguments[0]).name or "python", *takewhile(str.isalpha, arguments[1:3])])


def _who(holder: Holder) -> str:
    return f"{holder.user} on {holder.host} (process {holder.pid}, {holder.command})"


def _when(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _extended(record: LeaseRecord, since: datetime, lifetime: float) -> LeaseRecord:
    return record.model_copy(update={"expires_at": since + timedelta(seconds=lifetime)})


def _now() -> datetime:
    return datetime.now(UTC)


def _awake() -> float:
    """Read a clock in seconds that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
