"""Name processes in a way that lets others find out whether they have ended."""

import socket
from itertools import takewhile
from pathlib import Path

import psutil


def pid_space() -> str:
    """Identify the space in which pids are unique: a boot and, for containers, a pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def started(process: psutil.Process) -> float:
    """Compute when a process started, in seconds after the boot, whatever the clock was set to."""
    return process.create_time() - psutil.boot_time()


def command_of(arguments: list[str]) -> str:
    """Return the program and its command, without options, which may contain passwords."""
    return " ".join([Path(arguments[0]).name or "python", *takewhile(str.isalpha, arguments[1:3])])
