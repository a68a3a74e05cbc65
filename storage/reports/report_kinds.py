"""Describe the kinds of reports: their checks by seals, their ages, and their tables."""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from functools import partial

import pyarrow as pa

from storage import parquet
from storage.kinds import Check, Kind, Table
from storage.reports import tables
from storage.store import Store, StoreError


def report_kind(
    name: str,
    schema: Callable[[list[str], list[str]], pa.Schema],
    sealed: Callable[[Store, str], Collection[str]],
    *,
    expires: bool = True,
    meant: Mapping[str, str] = {},
) -> Kind:
    """Make the kind of the reports in ``reports/<name>``.

    ``schema`` has the columns for a model of some classes and taps, ``sealed`` the digests in seals
    of a batch, ``meant`` columns by other words. Old ones may be removed if it ``expires``.
    """

    def checks(store: Store, only: str | None = None) -> Iterator[Check]:
        for file in report_files(store, name):
            *folder, last = file.split("/")
            batch = last.removesuffix(".parquet")
            if only in (None, batch):
                yield Check.of(file, _verify, store, sealed, batch, (*folder, last))

    def expiring(batch: str, day: date) -> list[tuple[str, ...]]:
        return [tables.report_path(batch, day, name)] if expires else []

    table = Table(schema, files=partial(report_files, name=name), meant=meant)
    return Kind(name, checks=checks, batch_checks=checks, expiring=expiring, table=table)


def report_files(store: Store, name: str) -> list[str]:
    """List the reports of a kind."""
    return [
        "/".join(("reports", name, folder, file))
        for folder in store.names("reports", name)
        for file in store.names("reports", name, folder)
        if file.endswith(".parquet")
    ]


def _verify(
    store: Store, sealed: Callable[[Store, str], Collection[str]], batch: str, path: tuple[str, ...]
) -> None:
    """Compare a report with its batch's seals, or if there are none yet, with its checksums."""
    digests = sealed(store, batch)
    day = date.fromisoformat(path[-2].removeprefix("batch_date="))
    if not digests or tables.is_withdrawn(store, batch, day):
        parquet.read_table(store, *path)
    elif tables.report_digest(store, path) not in digests:
        raise StoreError(
            "it is not the report that was sealed (sha256 differs): restore it from a backup, or "
            f"screen batch {batch} again with the same command, if no run is publishing it now"
        )
