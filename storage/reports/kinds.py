"""List the kinds of reports: the one on images."""

from collections import Counter
from collections.abc import Iterator

from storage.batches.kinds import kind_of_attempts
from storage.batches.ledger import read_seal, seals_of
from storage.batches.manifests import load_batch_of_key
from storage.kinds import Check, Kind, lease_checks
from storage.parquet import iterate_rows
from storage.reports.report_kinds import report_kind
from storage.reports.schemas.images import image_schema
from storage.reports.tables import IMAGES, report_digest, report_path
from storage.store import Store, StoreError

FIGURES = ("scored", "abnormal", "review", "failures")  # of a seal and of its report
MEANT = {"probability": "probability_Parasitized", "score": "abnormality"}
MEANT |= {"date": "batch_date", "reason": "review_reason"}


def _figure_checks(store: Store, key: str) -> Iterator[Check]:
    """List the checks of an attempt's seals against the reports that they seal."""
    for file in store.names("batches", key, "sealed"):
        path = f"batches/{key}/sealed/{file}"
        yield Check.of(path, _figures, store, key, file.removesuffix(".json"))


def _figures(store: Store, key: str, screening: str) -> None:
    """Compare a seal's figures with those of its report, unless that is another one by now."""
    batch = load_batch_of_key(store, key)
    seal, path = read_seal(store, batch, screening), report_path(batch.name, batch.batch_date)
    if seal is None or report_digest(store, path) != seal.report_digest:
        return
    if _counted(store, path) != seal.model_dump(include=set(FIGURES)):
        raise StoreError("its figures are not those of its report: restore it from a backup")


def _counted(store: Store, path: tuple[str, ...]) -> dict[str, object]:
    """Count the images of a report as its seal states them."""
    figures, failures = dict.fromkeys(FIGURES[:-1], 0), Counter[str]()
    columns = ["status", "abnormal", "verdict", "failure"]
    for rows in iterate_rows(store, *path, columns=columns):
        for row in rows.to_pylist():
            figures["scored"] += row["status"] == "scored"
            figures["abnormal"] += bool(row["abnormal"])
            figures["review"] += row["verdict"] == "review"
            failures.update([row["failure"].partition(":")[0]] if row["failure"] else [])
    return {**figures, FIGURES[-1]: dict(failures)}


def _sealed(store: Store, batch: str) -> set[str]:
    return {seal.report_digest for seal in seals_of(store, batch)}


KINDS = (
    report_kind(IMAGES, image_schema, _sealed, meant=MEANT),
    kind_of_attempts("figures", _figure_checks),
    Kind("leases on reports", checks=lambda store: lease_checks(store, "reports")),
)
