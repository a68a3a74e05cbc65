"""Let one run write at a time: in ``<what>/lease/<number>.json`` the highest number counts.

The run that creates the next number holds the lease; a store lets only one run create it. The
holder renews its record while it works and releases it at the end. Another run may create the next
number once the highest is released, has not changed for a lifetime by that run's own clock, or
belongs to a process that is certainly dead. A former holder never gets the lease back: its
`Lease.check` fails.

Clocks of different machines are never compared to take a lease. Between a check and a write a
process may stall, and another run take over. So a holder writes only through `Lease.store`, which
refuses a write that comes too late: on a local disk it renames or links files out of a folder of
its own in `STAGED`, which the next holder removes before it starts.
"""

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Lock, Thread
from uuid import uuid4

import psutil
from pydantic import AwareDatetime

from storage import disk, records
from storage.processes import command_of, pid_space, started
from storage.store import STAGED, AlreadyExistsError, Store, StoreError, refuse_foreign

# Seconds until a lease that is not renewed runs out, and between renewals; several may fail.
LIFETIME = 60.0
BEAT = 10.0
OLD = 24 * 3600.0  # seconds after which a stage counts as left by a killed run
RECORD = re.compile(r"([0-9]{6,})\.json")
STAGE = re.compile(r"(.+)~([0-9]{6,})~[^~]*")  # a holder's folder; no other name has this form


class HeldByOtherError(StoreError):
    """Another run holds the lease."""


class LeaseLostError(StoreError):
    """A run has lost its lease, and could now spoil another run's work."""


class Holder(records.Entry):
    """The process that holds a lease; each request for a lease gets a new ``owner``.

    Pids are reused: one is unique within ``processes``, with ``process_started`` (seconds after
    boot).
    """

    owner: str
    host: str
    processes: str
    pid: int
    process_started: float
    user: str
    command: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid}, {self.command})"


class LeaseRecord(records.Record):
    """The record of a lease: its holder, and the time at which it runs out unless renewed."""

    holder: Holder
    taken_at: AwareDatetime
    expires_at: AwareDatetime
    released: bool = False


class Lease:
    """The right of one run to write, through its ``store``; ``number`` rises with every holder.

    ``stage`` names the folder without which this run cannot write to a local store.
    """

    def __init__(
        self, store: Store, folder: tuple[str, ...], number: int, record: LeaseRecord
    ) -> None:
        self._store = store
        self._folder = folder
        self.number = number
        self.stage = "~".join((*folder[:-1], f"{number:06d}", record.holder.owner))
        self.store = store.fenced(self)
        self._record = record
        self._lock = Lock()

    def check(self) -> None:
        """Raise LeaseLostError if this run no longer holds the lease.

        A damaged record is a StoreError, as the holder is not known.
        """
        with self._lock:
            self._check()

    def renew(self, lifetime: float = LIFETIME) -> None:
        """Renew the lease; LeaseLostError if this run no longer holds it."""
        with self._lock:
            self._check()
            self._write(expires_at=_now() + timedelta(seconds=lifetime))

    def release(self) -> None:
        """Release the lease; nothing happens if another run holds it by now."""
        with self._lock:
            self._record = self._record.model_copy(update={"released": True})
            _, current = _current(self._store, self._folder)
            if current and self._is_mine(current):
                self._write()

    def successor(self) -> str | None:
        """Return who took the lease over, and when, as text; None if nobody did."""
        _, current = _current(self._store, self._folder)
        if current is None or self._is_mine(current):
            return None
        return f"{current.holder} at {_when(current.taken_at)}"

    def _write(self, **changed: object) -> None:
        record = self._record.model_copy(update=changed)
        record.write(self._store, *self._folder, _file(self.number))
        self._record = record

    def _check(self) -> None:
        _, current = _current(self._store, self._folder)
        if self._record.released:
            why = "was released"
        elif current is None:
            why = "was removed"
        elif not self._is_mine(current):
            why = f"was taken over by {current.holder} at {_when(current.taken_at)}"
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

    It is not reentrant. With ``wait``, poll every ``poll`` seconds, and call ``on_wait`` with a
    message for each holder. A lease that seems to have run out is watched for a ``lifetime``.

    Raises:
        HeldByOtherError: another run holds the lease, and ``wait`` is False.
        StoreError: the record of the present holder is damaged, or this is no store's folder.
    """
    refuse_foreign(store)
    folder = (*what, "lease")
    held = _take(store, folder, wait, on_wait, lifetime, poll)
    stop = Event()
    heart = Thread(target=_keep_alive, args=(held, stop, beat, lifetime), daemon=True)
    heart.start()
    try:
        _fence_off_others(held, store, what)
        for number in _numbers(store, folder):
            if number < held.number:
                with suppress(FileNotFoundError):
                    store.remove(*folder, _file(number))
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
            if store.is_local:
                disk.delete(_stage(store, held))
            held.release()


def _fence_off_others(held: Lease, store: Store, what: tuple[str, ...]) -> None:
    """Make this holder's folder of stages, and remove those of earlier holders."""
    if store.is_local:
        with store.explaining():
            disk.make_folder(_stage(store, held))
        # A successor that took over before this folder existed has not removed it.
        held.check()
    for path in _stages(store):
        named = STAGE.fullmatch(path.name)
        is_of_this = named and named[1] == "~".join(what) and int(named[2]) <= held.number
        if is_of_this and path.name != held.stage:
            disk.discard(path, path.parent)
    sweep(store)


def _stage(store: Store, held: Lease) -> Path:
    return Path(store.path(STAGED, held.stage))


def _stages(store: Store) -> list[Path]:
    folder = Path(store.path(STAGED))
    return list(folder.iterdir()) if store.is_local and folder.is_dir() else []


def sweep(store: Store) -> int:
    """Remove stages that killed runs left a day ago or earlier, and count them."""
    count = 0
    for path in _stages(store):
        # Another run removes it, it belongs to another user, or the holder's record is damaged.
        with suppress(OSError, StoreError):
            since = disk.clock(path.parent) - OLD
            if path.stat().st_mtime <= since and not _has_holder(store, path.name, since):
                disk.discard(path, path.parent)
                count += 1
    return count


def _has_holder(store: Store, stage: str, since: float) -> bool:
    """Return whether a run holds the lease of a stage, and has renewed it after ``since``."""
    named = STAGE.fullmatch(stage)
    if named is None:
        return False
    folder = (*named[1].split("~"), "lease")
    number, record = _current(store, folder)
    if record is None or number != int(named[2]) or _has_ended(record):
        return False
    return Path(store.path(*folder, _file(number))).stat().st_mtime > since


def _take(
    store: Store,
    folder: tuple[str, ...],
    wait: bool,
    on_wait: Callable[[str], None],
    lifetime: float,
    poll: float,
) -> Lease:
    holder = _this_process()
    watched, since, announced = None, time.monotonic(), ""
    while True:
        looked = time.monotonic()  # before the record is read, so that no renewal is missed
        number, current = _current(store, folder)
        is_renewed = bool(watched and current and current != watched)
        if current != watched:
            watched, since = current, time.monotonic()
        if current and current.holder.owner == holder.owner:
            return Lease(store, folder, number, current)
        if current is None or _has_ended(current) or looked - since >= lifetime:
            _try_to_create(store, folder, number + 1, holder, lifetime)
            continue
        held = (
            f"{store.address(*folder[:-1])} is being worked on by {current.holder} "
            f"since {_when(current.taken_at)}"
        )
        # A longer life than any lease has is that of a clock that is ahead: see if it is renewed.
        is_left = timedelta(0) < current.expires_at - _now() <= timedelta(seconds=lifetime)
        if not wait and (is_renewed or is_left):
            raise HeldByOtherError(
                f"{held}: wait for it with --wait, or stop that process; if it died, the "
                f"same command can take over after {_when(current.expires_at)}"
            )
        if announced != current.holder.owner:
            doing = "to end" if wait else f"to renew its lease, for {lifetime:.0f} seconds at most"
            on_wait(f"{held}: waiting for it {doing}")
            announced = current.holder.owner
        time.sleep(poll)


def _try_to_create(
    store: Store, folder: tuple[str, ...], number: int, holder: Holder, lifetime: float
) -> None:
    """Try to create a lease's record; whoever has the highest number afterwards holds the lease.

    Success proves nothing: others may have held, released and removed this number before a slow run
    created it. Neither does failure: the store's answer to a first attempt may have been lost.
    """
    began = _now()
    ends = began + timedelta(seconds=lifetime)
    record = LeaseRecord(holder=holder, taken_at=began, expires_at=ends)
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
    return [int(named[1]) for name in store.names(*folder) if (named := RECORD.fullmatch(name))]


def _file(number: int) -> str:
    return f"{number:06d}.json"


def _has_ended(record: LeaseRecord) -> bool:
    return record.released or _is_dead(record.holder)


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


def _when(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _now() -> datetime:
    return datetime.now(UTC)
