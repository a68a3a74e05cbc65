"""Let one run write at a time: in ``<what>/lease/<number>.json`` the highest number counts.

The run that creates the next number holds the lease; a store lets only one run create it. The
holder renews its record while it works and releases it at the end. Another run may create the next
number once the highest is released, has run out, or belongs to a process that is certainly dead.
None of these can be undone, so a former holder never gets the lease back: its `Lease.check` fails.
A check is not enough: between it and a write the process may stall, and another run take over. So
the holder writes only through `Lease.store`, which refuses a write that comes too late.

A holder measures its own lease by a boot-time clock, which cannot be set and runs during sleep.
Other runs compare its record with the time of day on their host. A working holder renews
every `BEAT` and so always has most of `LIFETIME` left: it is taken for dead only if clocks differ
by more than `LIFETIME` - `BEAT`. A run that waits also takes the lease if its record stays the same
for a lifetime, because a dead holder's clock may have been ahead. When a holder's own time of day
is set back, its records continue from the time at which it took the lease, so that they do not seem
to have run out. None of this decides who may write: a holder that is taken for dead by mistake is
fenced off like any other.
"""

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread
from uuid import uuid4

import psutil
from pydantic import AwareDatetime

from storage import fences, records
from storage.processes import command_of, pid_space, started
from storage.store import AlreadyExistsError, Store, StoreError

# Seconds until a lease that is not renewed runs out, and between renewals; several may fail.
LIFETIME = 60.0
BEAT = 10.0


class HeldByOtherError(StoreError):
    """Another run holds the lease."""


class LeaseLostError(StoreError):
    """A run has lost its lease, and could now spoil another run's work."""


class Holder(records.Entry):
    """The process that holds a lease; each request for a lease gets a new ``owner``.

    Pids are reused, so one is unique only within ``processes`` and together with
    ``process_started`` (seconds after the boot).
    """

    owner: str
    host: str
    processes: str
    pid: int
    process_started: float
    user: str
    command: str


class LeaseRecord(records.Record):
    """The record of a lease: its holder, and the time at which it runs out unless renewed."""

    holder: Holder
    taken_at: AwareDatetime
    expires_at: AwareDatetime
    released: bool = False


class Lease:
    """The right of one run to write, through its ``store``.

    ``number`` rises with every holder. ``stage`` names the folder without which this run cannot
    write to a local store. ``since`` is the start of the record's lifetime, by `_awake`.
    """

    def __init__(
        self, store: Store, folder: tuple[str, ...], number: int, record: LeaseRecord, since: float
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
            LeaseLostError: the lease ran out, was released or removed, or another run took it over.
            StoreError: the record is damaged, so the holder is not known.
        """
        with self._lock:
            self._check()

    def renew(self, lifetime: float = LIFETIME) -> None:
        """Renew the lease; LeaseLostError if this run no longer holds it."""
        with self._lock:
            self._check()
            began = _awake()
            # Use the later of two clocks, so that setting one back does not end the lease.
            unset = self._record.taken_at + timedelta(seconds=began - self._taken)
            renewed = _extended(self._record, max(_now(), unset), lifetime)
            renewed.write(self._store, *self._folder, _file(self.number))
            # A renewal that arrived after the old expiry may have crossed with a takeover.
            if _awake() < self._ends:
                self._record, self._ends = renewed, began + lifetime

    def release(self) -> None:
        """Release the lease; nothing happens if another run holds it by now."""
        with self._lock:
            self._record = self._record.model_copy(update={"released": True})
            _, current = _current(self._store, self._folder)
            if current and self._is_mine(current):
                self._record.write(self._store, *self._folder, _file(self.number))

    def successor(self) -> str | None:
        """Return who took the lease over, and when, as text; None if nobody did."""
        _, current = _current(self._store, self._folder)
        if current is None or self._is_mine(current):
            return None
        return f"{_who(current.holder)} at {_when(current.taken_at)}"

    def _check(self) -> None:
        _, current = _current(self._store, self._folder)
        # The clock is read last, because the store may have been slow to answer.
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
            "writes more; run the same command again to resume"
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

    With ``wait``, poll every ``poll`` seconds until the lease is free, and call ``on_wait`` with a
    message for each holder. The lease is not reentrant: a thread that takes it twice waits for
    itself.

    Raises:
        HeldByOtherError: another run holds the lease, and ``wait`` is False.
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
    except LeaseLostError:
        raise
    except StoreError:
        held.check()  # to a run that lost its lease, what another run removes is missing
        raise
    finally:
        stop.set()
        heart.join()
        # The lease runs out by itself; an error here must not hide the block's own error.
        with suppress(Exception):
            fences.close_stage(store, held.stage)
            held.release()


def _fence_off_others(held: Lease, store: Store, what: tuple[str, ...]) -> None:
    """Make this holder's folder of stages, and remove those of earlier holders."""
    fences.open_stage(store, held.stage)
    # A successor that took over before this folder existed has not removed it.
    held.check()
    fences.close_others(store, what, held.number, held.stage)
    sweep(store)


def sweep(store: Store) -> int:
    """Remove stages that killed runs left a day ago or earlier, and count them."""

    def is_held(what: tuple[str, ...], number: int) -> bool:
        try:
            highest, record = _current(store, (*what, "lease"))
        except StoreError:  # damaged: the holder is unknown
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
    owner, arrived, came = "", _now(), _awake()
    watched, since = None, came
    while True:
        # Taken before the record is read, so that a renewal since then is not missed. If the time
        # of day is set ahead while this run waits, a living holder must not seem dead.
        looked = _awake()
        asked_at = min(_now(), arrived + timedelta(seconds=looked - came))
        number, current = _current(store, folder)
        if current != watched:
            watched, since = current, _awake()
        # By its clock, which may be hours ahead, a dead holder would have its lease for hours.
        if current is None or _is_free(current, asked_at) or looked - since >= lifetime:
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
            if owner != current.holder.owner:
                on_wait(f"{held}: waiting for it to end")
                owner = current.holder.owner
            time.sleep(poll)


def _try_to_create(
    store: Store, folder: tuple[str, ...], number: int, holder: Holder, lifetime: float
) -> None:
    """Try to create a lease's record; whoever has the highest number afterwards holds the lease.

    Success proves nothing: others may have held, released and removed this number before a slow run
    created it. Neither does failure: the store's answer to a first attempt may have been lost.
    """
    began = _now()
    record = LeaseRecord(holder=holder, taken_at=began, expires_at=began)
    record = _extended(record, began, lifetime)
    try:
        record.write(store, *folder, _file(number), once=True)
    except (AlreadyExistsError, OSError):
        # Object stores report a lost race in many ways: S3 says 412 or 409, s3fs EINVAL or EBUSY.
        if _highest(store, folder) < number:
            raise


def _keep_alive(held: Lease, stop: Event, beat: float, lifetime: float) -> None:
    while not stop.wait(beat):
        try:
            held.renew(lifetime)
        except LeaseLostError:
            return
        except Exception:
            # Whatever a storage client raises, the next beat may succeed.
            continue


def _current(store: Store, folder: tuple[str, ...]) -> tuple[int, LeaseRecord | None]:
    """Read the highest number and its record; 0 and None if nobody ever held the lease."""
    while number := _highest(store, folder):
        try:
            return number, LeaseRecord.read(store, *folder, _file(number))
        except StoreError as error:
            # Another run may have taken the lease and removed this record in between.
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
    """Return whether the holder has certainly ended; False if this host cannot know."""
    if (holder.host, holder.processes) != (socket.gethostname(), pid_space()):
        return False
    try:
        # Not psutil.pid_exists, which misses other users' processes if /proc hides them.
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        process = psutil.Process(holder.pid)
        # The time of the boot is known only to the second.
        is_another = abs(started(process) - holder.process_started) > 2
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _this_process() -> Holder:
    process = psutil.Process()
    return Holder(
        owner=uuid4().hex,
        host=socket.gethostname(),
        processes=pid_space(),
        pid=process.pid,
        process_started=started(process),
        user=process.username(),
        command=command_of(sys.argv),
    )


def _who(holder: Holder) -> str:
    return f"{holder.user} on {holder.host} (process {holder.pid}, {holder.command})"


def _when(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _extended(record: LeaseRecord, since: datetime, lifetime: float) -> LeaseRecord:
    return record.model_copy(update={"expires_at": since + timedelta(seconds=lifetime)})


def _now() -> datetime:
    return datetime.now(UTC)


def _awake() -> float:
    """Read a clock in seconds that nobody sets and that runs while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
