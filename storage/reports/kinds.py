"""Describe kinds of reports, by seals, ages and tables, and list the one on images."""

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from datetime import date
from functools import partial

import pyarrow as pa

from storage.batches.kinds import kind_of_files
from storage.batches.ledger import list_seals, read_seal
from storage.batches.manifests import attempts_at, load_batch_of_key
from storage.kinds import Check, Kind, Table, lease_checks
from storage.parquet import iterate_rows, read_table
from storage.reports.schemas.images import image_schema
from storage.reports.tables import IMAGES, PERSONS, is_withdrawn, report_digest, report_path
from storage.store import Store, StoreError

FIGURES = ("scored", "abnormal", "review", "failures")  # of a seal and of its report
MEANT = {"probability": "probability_Parasitized", "score": "abnormality"}
MEANT |= {"date": "batch_date", "reason": "review_reason"}
Sealed = Callable[[Store, str, str], Collection[str]]  # by the name of a batch, and a kind


def report_kind(
    name: str,
    schema: Callable[[list[str], list[str]], pa.Schema],
    sealed: Sealed,
    *,
    expires: bool = True,
    joined: str | None = None,
    meant: Mapping[str, str] = {},
) -> Kind:
    """Make the kind of the reports in ``reports/<name>``.

    ``schema`` has the columns for a model of some classes and taps, ``sealed`` the digests of the
    kind in seals of a batch. Old ones may be removed if it ``expires``; ``joined`` and ``meant``
    are of `Table`.
    """

    def checks(store: Store, only: str | None = None) -> Iterator[Check]:
        for file in report_files(store, name):
            *folder, last = file.split("/")
            batch = last.removesuffix(".parquet")
            if only in (None, batch):
                yield Check.of(file, _verify, store, sealed, batch, (*folder, last))

    def expiring(batch: str, day: date) -> list[tuple[str, ...]]:
        return [report_path(batch, day, name)] if expires else []

    table = Table(schema, files=partial(report_files, name=name), joined=joined, meant=meant)
    return Kind(name, checks=checks, batch_checks=checks, expiring=expiring, table=table)


def report_files(store: Store, name: str) -> list[str]:
    """List the reports of a kind."""
    return [
        "/".join(("reports", name, folder, file))
        for folder in store.names("reports", name)
        for file in store.names("reports", name, folder)
        if file.endswith(".parquet")
    ]


def calls_by_persons(store: Store, batches: Container[str]) -> dict[str, dict[str, int]]:
    """Count the patients of each batch by the call that follows from persons' answers.

    Batches on which nobody has answered are left out.
    """
    calls = {}
    for file in report_files(store, PERSONS):
        batch = file.rpartition("/")[2].removesuffix(".parquet")
        if batch in batches:
            each = read_table(store, file)["person_call"].drop_null().to_pylist()
            calls[batch] = dict(Counter(each))
    return calls


def _verify(store: Store, sealed: Sealed, batch: str, path: tuple[str, ...]) -> None:
    """Compare a report with its batch's seals, or if there are none yet, with its checksums."""
    digests = sealed(store, batch, path[1])
    day = date.fromisoformat(path[-2].removeprefix("batch_date="))
    if not digests or is_withdrawn(store, batch, day):
        read_table(store, *path)
    elif report_digest(store, path) not in digests:
        raise StoreError(
            "it is not the report that was sealed (sha256 differs): restore it from a backup, or "
            f"screen batch {batch} again with the same command, if no run is publishing it now"
        )


def _figures(store: Store, key: str, screening: str) -> None:
    """Compare a seal's figures with those of its report, unless that is another one by now."""
    batch = load_batch_of_key(store, key)
    seal, path = read_seal(store, batch, screening), report_path(batch.name, batch.batch_date)
    if seal is None or report_digest(store, path) != seal.report_digest:
        return
    if _counted(store, path) != seal.model_dump(include=set(FIGURES)):
        raise StoreError("its figures are not those of its report: restore it from a backup")


def _counted(store: Store, path: tuple[str, ...]) -> dict[str, object]:
    figures, failures = dict.fromkeys(FIGURES[:-1], 0), Counter[str]()
    columns = ["status", "abnormal", "verdict", "failure"]
    for rows in iterate_rows(store, *path, columns=columns):
        for row in rows.to_pylist():
            figures["scored"] += row["status"] == "scored"
            figures["abnormal"] += bool(row["abnormal"])
            figures["review"] += row["verdict"] == "review"
            failures.update([row["failure"].partition(":")[0]] if row["failure"] else [])
    return {**figures, FIGURES[-1]: dict(failures)}


def _sealed(store: Store, batch: str, _: str) -> set[str]:
    attempts = [load_batch_of_key(store, key) for key in attempts_at(store, batch)]
    return {seal.report_digest for attempt in attempts for seal in list_seals(store, attempt)}


KINDS = (
    report_kind(IMAGES, image_schema, _sealed, meant=MEANT),
    kind_of_files("figures", "sealed", _figures),
    Kind("leases on reports", checks=lambda store: lease_checks(store, "reports")),
)
