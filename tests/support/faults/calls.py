"""Count the calls by which a process changes files below a folder, and let one of them go wrong.

Python tells of them by audit events, whoever makes them: the store, zarr, or a library. Of syncs it
does not tell, so `os.fsync` is wrapped. What Arrow writes into a staged file is no call of its own.
"""

import errno
import fcntl
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
STAGED = ".staged"
# Audit events, and which of their arguments is the path that changes.
CHANGES = {"os.rename": 1, "os.link": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0}
# Of XFS and, by the same number, of ext4: stop the filesystem and lose what was not synced.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, b"\x02\0\0\0"
DIED = 137


@dataclass(frozen=True)
class Fault:
    """A fault at call number ``at``, from 1; 0 is never.

    ``kind`` is one of: ``die``, before the call; ``tear``, die in the middle of a write; ``fail``,
    an error with the number ``errno`` from it on ``times`` times; ``cut``, the power of the disk
    that the folder is on; ``stop``, until somebody continues the process. An S3 server has kinds
    of its own; see `tests.support.far_s3`.
    """

    kind: str = "none"
    at: int = 0
    errno: int = errno.EIO
    times: int = 1


NO_FAULT = Fault()


class Calls:
    """Counts the calls of this process below a folder, and notes each in a file."""

    def __init__(self, root: Path, fault: Fault, notes: int) -> None:
        self._root, self._fault, self._notes = str(root), fault, notes
        self._count, self._busy = 0, False
        sync = os.fsync

        def fsync(number: int) -> None:
            self._called("fsync", _path_of(number))
            sync(number)

        os.fsync = fsync
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and isinstance(path, str | bytes):
                self._called("open", os.fsdecode(path))
        elif event in CHANGES:
            path, folder = os.fsdecode(arguments[CHANGES[event]]), arguments[-1]
            if folder >= 0 and not path.startswith("/"):
                path = f"{_path_of(folder)}/{path}"
            what = event.removeprefix("os.")
            if event == "os.rename" and f"/{STAGED}/" in path:
                # What is moved away to be deleted is gone from where it was.
                what, path = "discard", os.fsdecode(arguments[0])
            self._called(what, path)

    def _called(self, what: str, path: str) -> None:
        if self._busy or not path.startswith(f"{self._root}/"):
            return
        self._count = number = self._count + 1  # files are synced by several threads
        os.write(self._notes, f"call {what} {path[len(self._root) + 1 :]}\n".encode())
        if self._fault.at <= number < self._fault.at + self._fault.times:
            self._go_wrong(what, path)

    def _go_wrong(self, what: str, path: str) -> None:
        kind = self._fault.kind
        os.write(self._notes, f"fault {kind}\n".encode())
        if kind == "fail":
            raise OSError(self._fault.errno, os.strerror(self._fault.errno), path)
        self._busy = True
        if kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            self._busy = False
            return
        if kind == "tear" and what == "open":
            # The name is there, and some of the content.
            os.write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), b"PA")
        if kind == "cut":
            fcntl.ioctl(os.open(self._root, os.O_RDONLY), SHUTDOWN, NO_LOG_FLUSH)
        os._exit(DIED)


def _path_of(number: int) -> str:
    return str(Path(f"/proc/self/fd/{number}").readlink())
