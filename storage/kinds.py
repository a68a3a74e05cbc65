"""Name the kinds of files, which each installed room lists in its module ``kinds``."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec

import pyarrow as pa

from storage.leases import LeaseRecord
from storage.records import Tell
from storage.store import Store

# Of a batch as a person gave them, and the largest number of files.
Sources = tuple[str | tuple[str, ...], int | None]
ROOMS = ("storage.batches", "storage.models", "storage.reports", "storage.smears")


@dataclass(frozen=True)
class Check:
    """One thing to compare, by its path in the store; ``verify`` raises if it is damaged."""

    path: str
    verify: Callable[[], object]

    @classmethod
    def of(cls, path: str, verify: Callable[..., object], *things: object) -> "Check":
        """Make the check that ``verify`` does of these things."""
        return cls(path, partial(verify, *things))


@dataclass(frozen=True)
class Table:
    """A table of `query`, with either Parquet ``files`` or ``rows`` made from records."""

    schema: Callable[[list[str], list[str]], pa.Schema]
    """Its columns, for a model of these classes and taps."""
    files: Callable[[Store], list[str]] | None = None
    rows: Callable[[Store, Tell | None], pa.Table] | None = None
    """May leave out damaged records; see `storage.records.read_readable`."""
    joined: str | None = None
    """SQL that makes the table of its rows, which are called <name>_read, and of other tables."""
    meant: Mapping[str, str] = field(default_factory=dict)
    """Its columns by other words that a person may expect as their names."""


@dataclass(frozen=True)
class Kind:
    """A kind of files. Only its ``name`` is required."""

    name: str
    checks: Callable[[Store], Iterable[Check]] = lambda _: ()
    """Of all files."""
    batch_checks: Callable[[Store, str], Iterable[Check]] = lambda *_: ()
    """Of the files of a batch, by its name: of all its attempts."""
    needed: Callable[[Store, str], Iterable[tuple[str, int]]] = lambda *_: ()
    """Batches, each with its attempt, whose features under a model must stay."""
    expiring: Callable[[str, date], Iterable[tuple[str, ...]]] = lambda *_: ()
    """The files that go when the report of a batch, by name and day, is too old."""
    withdrawn: Callable[[str], Mapping[tuple[str, ...], bytes]] = lambda _: {}
    """The files that replace those of a batch, by its name, while its reports are replaced."""
    table: Table | None = None
    owns: Callable[[Store, str], bool] = lambda *_: False
    """Return whether a source of images is a manifest of this kind, to which reports refer."""
    sources: Callable[[Store, str], Sources | None] = lambda *_: None
    """The sources from which the manifest of a batch was made, by the batch's key."""


@cache
def kinds() -> tuple[Kind, ...]:
    """Collect the kinds of all installed rooms."""
    rooms = [import_module(f"{room}.kinds") for room in ROOMS if find_spec(room)]
    return tuple(kind for room in rooms for kind in room.KINDS)


def tables() -> dict[str, Table]:
    """Map the names of tables to the tables of all kinds."""
    return {kind.name: kind.table for kind in kinds() if kind.table}


def all_checks(store: Store) -> Iterator[Check]:
    """List the checks of everything in a store."""
    for kind in kinds():
        yield from kind.checks(store)


def lease_checks(store: Store, *what: str) -> Iterator[Check]:
    """List the checks of a lease's records; a damaged one blocks every run that wants the lease."""
    for file in store.names(*what, "lease"):
        path = (*what, "lease", file)
        if file.endswith(".json"):
            yield Check.of("/".join(path), LeaseRecord.find, store, *path)


def leases_of(store: Store, folder: str) -> Iterator[Check]:
    """List the checks of the leases on the entries of a folder."""
    for name in store.names(folder):
        yield from lease_checks(store, folder, name)
