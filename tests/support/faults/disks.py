"""Small disks of one's own: filesystems in a file, and in memory. Only root may mount them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.faults.trials import Bench
from tests.support.needs import lacking

# The smallest that each can be made.
MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}


@dataclass(frozen=True)
class Disk:
    """A filesystem in the file ``image``, mounted at ``at``."""

    image: Path
    at: Path

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.at], check=True)

    def unmount(self) -> None:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", self.at], check=True, capture_output=True)
            return
        subprocess.run(["umount", "-l", self.at], check=False, capture_output=True)

    def again(self) -> None:
        """Mount it again, as after a power cut."""
        self.unmount()
        self.mount()


@contextmanager
def disk_of(kind: str, folder: Path) -> Iterator[Disk]:
    """Make and mount a disk; the test is skipped by name where that cannot be."""
    if os.geteuid() != 0:
        lacking("disks", "only root may mount one")
    if shutil.which(MAKE[kind][0]) is None:
        lacking("disks", f"there is no {MAKE[kind][0]} here")
    disk = Disk(folder / f"{kind}.image", folder / kind)
    disk.at.mkdir(parents=True)
    with disk.image.open("wb") as file:
        file.truncate(BYTES[kind])
    subprocess.run([*MAKE[kind], disk.image], check=True, capture_output=True)
    try:
        disk.mount()
    except subprocess.CalledProcessError:
        lacking("disks", "this machine does not let us mount one")
    try:
        yield disk
    finally:
        disk.unmount()
        disk.image.unlink()


@contextmanager
def memory_of(megabytes: int, at: Path) -> Iterator[Path]:
    """Mount a disk in memory; the test is skipped by name where that cannot be."""
    if os.geteuid() != 0:
        lacking("disks", "only root may mount one")
    at.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", at]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        lacking("disks", "this machine does not let us mount one")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=False)


@dataclass(frozen=True)
class PoweredBench(Bench):
    """A bench on a disk whose power may be cut: each trial begins with a copy of the whole disk."""

    disk: Disk | None = None

    def prepare(self) -> None:
        """Keep the disk as it is now for all trials."""
        assert self.disk
        self.disk.unmount()
        self._copy(self.disk.image, self._kept)
        self.disk.mount()

    def reset(self) -> None:
        assert self.disk
        if not self._kept.exists():
            super().reset()
            return
        self.disk.unmount()
        self._copy(self._kept, self.disk.image)
        self.disk.mount()

    def restore(self) -> None:
        assert self.disk
        self.disk.again()

    @property
    def _kept(self) -> Path:
        assert self.disk
        return self.disk.image.with_suffix(".kept")

    def _copy(self, source: Path, target: Path) -> None:
        subprocess.run(["cp", "--sparse=always", source, target], check=True)


@dataclass(frozen=True)
class FilledBench(Bench):
    """A bench on a disk that is full but for ``room`` bytes until the first run has ended."""

    room: int = 0

    def reset(self) -> None:
        super().reset()
        self.fill()

    def fill(self) -> None:
        free = os.statvfs(self.runs.root)
        self._filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - self.room)))

    def restore(self) -> None:
        self._filler.unlink(missing_ok=True)

    @property
    def _filler(self) -> Path:
        return self.runs.root / "filler"
