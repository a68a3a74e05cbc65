"""A store whose night readers judge elsewhere, the files that come back, and what is done."""

import csv
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq

from flows.commands.review.apply import apply
from flows.commands.review.queue import import_answers
from flows.options.tools import ReviewApply, ReviewImport
from flows.settings import Settings
from storage.store import Store
from tests.support.photographs import screened_photograph


@dataclass(frozen=True)
class Exchange:
    """A store without answers in ``template``, and files for it beside it."""

    folder: Path
    cells: tuple[str, ...]

    @property
    def template(self) -> Path:
        return self.folder / "template"

    def sheet(self, answers: Mapping[str, str]) -> str:
        """Write a sheet of answers by digest."""
        path = self.folder / "sheet.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image_id", "batch", "answer"])
            rows.writerows([cell, "night", answer] for cell, answer in answers.items())
        return str(path)

    def put(self, url: str) -> Store:
        """Copy the template to a place on a disk or on an object store."""
        store = Store(url)
        if store.is_local:
            shutil.rmtree(store.root, ignore_errors=True)
            shutil.copytree(self.template, store.root)
            return store
        if store.fs.exists(store.root):
            store.fs.rm(store.root, recursive=True)
        store.fs.put(f"{self.template}/", f"{store.root}/", recursive=True)
        return store


def exchange_in(folder: Path, with_model: Store) -> Exchange:
    """Make the store from one with a model, and the files."""
    shutil.copytree(with_model.root, folder / "template")
    store = screened_photograph(Store(str(folder / "template")), folder)
    (report,) = Path(store.root, "reports", "images").rglob("*.parquet")
    return Exchange(folder, tuple(pq.read_table(report, partitioning=None)["image_id"].to_pylist()))


def contents(store: Store) -> dict[str, str]:
    """Digest the files of a store by their paths, without leases and stages; S3 has digests."""
    store.fs.invalidate_cache()
    start = len(store.root) + 1
    found = store.fs.find(store.root, detail=True)
    kept = {path[start:]: told for path, told in sorted(found.items()) if "/lease/" not in path}
    return {
        path: told.get("ETag") or sha256(store.read_bytes(path)).hexdigest()
        for path, told in kept.items()
        if not path.startswith(".")
    }


def doings(exchange: Exchange, to: Path) -> dict[str, Callable[[Settings], object]]:
    """Name what persons do with what comes from outside."""
    some = dict(zip(exchange.cells, ("Uninfected", "Parasitized", "other"), strict=False))
    return {
        "a sheet is imported": lambda settings: import_answers(
            ReviewImport(file=exchange.sheet(some)), settings
        ),
        "answers are applied": lambda settings: apply(
            ReviewApply(to=str(to), batch="night"), settings
        ),
    }
