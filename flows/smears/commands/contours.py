"""Run the command `contours`: write a batch's cells and fields to show in QuPath."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.commands.written import to_write, written
from flows.options.tools import Contours
from flows.outcome import Outcome, table
from flows.settings import Settings
from flows.smears.stages.calling import screened_batch
from storage.batches.manifests import Batch, read_manifest
from storage.parquet import read_table
from storage.reports.tables import FIELDS, report_path, rows_by_shard
from storage.store import Store, StoreError
from tasks.images.access.addresses import path_of
from tasks.smears.visualisation.geojson import feature_collection
from tasks.words import counted

# A source, rows of its cells, and their outlines.
SourceCells = tuple[str | None, pa.Table, list[Any]]
LONGEST_NAME = 220  # bytes of a file's name that are kept; filesystems take 255


class ContoursOutcome(Outcome):
    """The folder and files that `contours` wrote."""

    batch: str
    folder: str
    files: int

    def _text(self) -> str:
        rows: list[tuple[str, object]] = [
            ("folder", self.folder),
            ("next", "drag a file onto its photograph or slide in QuPath"),
        ]
        return f"batch {self.batch}: {counted(self.files, 'file')}\n{table(rows)}"


def contours(options: Contours, settings: Settings) -> ContoursOutcome:
    """Write contours."""
    store = Store(settings.store)
    frozen = screened_batch(store, options.batch)
    path = report_path(frozen.name, frozen.batch_date, FIELDS)
    if not store.exists(*path):
        raise StoreError(
            f"batch {frozen.name} has no report on fields of view: that is made where `slidewatch "
            "segment`, or a night with --fields, has cut its images out of photographs or slides"
        )
    fields = read_table(store, *path)
    names = set[str]()
    for source, parts in groupby(_parts(store, frozen), key=itemgetter(0)):
        if source is None:  # what could not be read
            continue
        name = _new_name(source, names)
        file = to_write(f"{options.to}/{name}", store, force=options.force)
        file.parent.mkdir(parents=True, exist_ok=True)
        of_source = fields.filter(pc.equal(fields["source_uri"].cast(pa.string()), source))
        with written(file) as stage, stage.open("wb") as content:
            content.writelines(feature_collection((each[1:] for each in parts), of_source))
    return ContoursOutcome(batch=frozen.name, folder=options.to, files=len(names))


def _parts(store: Store, batch: Batch) -> Iterator[SourceCells]:
    for shard, rows in rows_by_shard(store, batch):
        columns = read_manifest(store, batch, shard, ["source_uri", "outline"])
        sources = columns["source_uri"].to_pylist()
        outlines = columns["outline"].to_pylist()
        start = 0
        for source, some in groupby(sources):
            stop = start + len(list(some))
            yield source, rows.slice(start, stop - start), outlines[start:stop]
            start = stop


def _new_name(source: str, names: set[str]) -> str:
    """Choose a file name for a source that differs from all ``names``, and add it to them."""
    name = "-".join(path_of(source).split("/")[-2:])  # of its folder, too
    # Cut where the whole name would be too long for the filesystem.
    name = name.encode()[-LONGEST_NAME:].decode(errors="ignore")
    file_name, number = f"{name}.geojson", 1
    while file_name in names:
        number += 1
        file_name = f"{name}-{number}.geojson"
    names.add(file_name)
    return file_name
