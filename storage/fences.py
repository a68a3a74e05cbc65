"""Fence off runs that have lost a lease: a folder of stages for each holder, in ``.staged``.

A holder writes to a local store only by renaming or linking files out of its own folder. The next
holder removes that folder before it starts, and nobody creates it again: a run that had stalled
finds no file left to rename.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from storage import disk
from storage.store import STAGED, Store

OLD = 24 * 3600.0  # seconds after which a stage counts as left by a killed run


def stage_of(what: tuple[str, ...], number: int, owner: str) -> str:
    """Return the name of a lease holder's folder; no other name in a store has this form.

    >>> stage_of(("batches", "night"), 12, "af3")
    'batches~night~000012~af3'
    """
    return "~".join((*what, f"{number:06d}", owner))


def lease_of(stage: str) -> tuple[tuple[str, ...], int] | None:
    """Return the lease and the number of a holder's folder; None for any other folder.

    >>> lease_of("batches~night~000012~af3")
    (('batches', 'night'), 12)
    """
    *what, number, _ = ["", *stage.split("~")]
    digits = re.fullmatch("[0-9]{6,}", number)
    return (tuple(what[1:]), int(number)) if digits and len(what) > 1 else None


def open_stage(store: Store, stage: str) -> None:
    """Make the folder of a holder that has just taken a lease."""
    if store.is_local:
        with store.explaining():
            disk.make_folder(Path(store.path(STAGED, stage)))


def close_stage(store: Store, stage: str) -> None:
    """Remove the folder of a holder that releases its lease."""
    if store.is_local:
        disk.delete(Path(store.path(STAGED, stage)))


def close_others(store: Store, what: tuple[str, ...], number: int, stage: str) -> None:
    """Remove the folders of all earlier holders of a lease."""
    for path in _stages(store):
        lease = lease_of(path.name)
        if lease and lease[0] == what and lease[1] <= number and path.name != stage:
            disk.discard(path, path.parent)


def sweep(store: Store, is_held: Callable[[tuple[str, ...], int], bool]) -> int:
    """Remove old stages left by killed runs, and count them.

    ``is_held`` says whether the holder with a number still holds a lease; it may work for longer
    than `OLD`.
    """
    count = 0
    for path in _stages(store):
        with suppress(OSError):  # another run removes it, or it belongs to another user
            if time.time() - path.stat().st_mtime < OLD:
                continue
            lease = lease_of(path.name)
            if not (lease and is_held(*lease)):
                disk.discard(path, path.parent)
                count += 1
    return count


def _stages(store: Store) -> list[Path]:
    folder = Path(store.path(STAGED))
    return list(folder.iterdir()) if store.is_local and folder.is_dir() else []
