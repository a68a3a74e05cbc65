"""A store that exchanges sites and verdicts with others, the files that come, and what is done."""

import csv
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flows.commands.review.apply import apply
from flows.commands.review.queue import import_verdicts
from flows.federation import export, import_file
from flows.settings import Settings
from flows.sites.versions import retract_site
from storage.store import Store
from tests.support.batches import freeze, manifest
from tests.support.crafted import Header, add_site, crafted, store_at
from tests.support.photographs import screened_photograph

SITES = ("lab", "far")


def named(name: str) -> Callable[[Header, Any], object]:
    """Give the site of a file another name."""
    return lambda header, _: header["site"].update(name=name)


@dataclass(frozen=True)
class Exchange:
    """A store without sites and verdicts in ``template``, and files for it beside it."""

    folder: Path
    cells: tuple[str, ...]

    @property
    def template(self) -> Path:
        return self.folder / "template"

    def file(self, site: str) -> Path:
        return self.folder / f"{site}.site"

    def sheet(self, verdicts: Mapping[str, str]) -> str:
        """Write a sheet of verdicts by digest."""
        path = self.folder / "sheet.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image_id", "batch", "verdict"])
            rows.writerows([cell, "night", verdict] for cell, verdict in verdicts.items())
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


def exchange_in(folder: Path) -> Exchange:
    """Make the store and the files."""
    there = store_at(folder / "there")
    add_site(there)
    export(str(folder / "lab.site"), site="lab", settings=Settings(store=there.url))
    crafted(folder / "lab.site", folder / "far.site", named("far"))
    store = store_at(folder / "template")
    freeze(store, manifest(2), "first")  # which was fitted
    screened_photograph(store, folder)
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
        "a site is imported": lambda settings: import_file(
            str(exchange.file("lab")), accept=True, settings=settings
        ),
        "a site is taken out": lambda settings: retract_site(Store(settings.store), "lab"),
        "a sheet is imported": lambda settings: import_verdicts(
            exchange.sheet(some), settings=settings
        ),
        "verdicts are applied": lambda settings: apply("night", str(to), settings=settings),
    }
