"""Import GeoJSON that a person has edited in QuPath: answers, and outlines of cells."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from flows.commands.exports.qupath import read_fields
from flows.commands.review.imports import ImportOutcome, import_lines
from flows.commands.review.sheets import new_manifest, write_manifest
from flows.outcome import shell_command
from storage.batches.manifests import Batch, read_manifest
from storage.models.classifiers import load_card
from storage.reports.tables import published_batch, rows_by_shard
from storage.store import Store
from tasks.images.access.files import SourceError, filesystem, read_bytes
from tasks.images.manifest import SCHEMA
from tasks.readers.verdicts import OTHER, UNSURE, WHITE, Line, VerdictError
from tasks.visualisation.geojson.changes import Changes, Row, Written, find_changes
from tasks.visualisation.geojson.read import Drawn, read_objects, refuse_large
from tasks.visualisation.geojson.write import field_identity, object_id
from tasks.words import counted


class OutlinesOutcome(ImportOutcome):
    """The changes that an import of edited GeoJSON made, and the outlines in it."""

    as_written: int
    unsure: int
    moved: int
    drawn: int
    cells: str | None

    def rows(self) -> list[tuple[str, object]]:
        """List the answers and outlines as names and texts."""
        rows = super().rows()
        rows.append(("as written", f"{counted(self.as_written, 'cell')}, without an answer"))
        if self.unsure:
            rows.append(("unsure", f"{counted(self.unsure, 'cell')}, left out"))
        if self.moved or self.drawn:
            kept = self.cells or "left out; --cells FILE.parquet lists them in a manifest"
            rows.append(("outlines", f"{self.moved:,} moved, {self.drawn:,} new; {kept}"))
        return rows


def import_outlines(
    store: Store, file: str, batch: str, reader: str | None, cells: str | None, *, keep: bool
) -> OutlinesOutcome:
    """Import answers on a batch's cells from GeoJSON, and list new outlines in a manifest.

    Args:
        store: where the batch is.
        file: as QuPath has exported it, of one photograph or slide.
        batch: its name.
        reader: who has said it.
        cells: the manifest to write, a .parquet file; None to leave outlines out.
        keep: whether anything is kept; otherwise only what would change is said.

    Raises:
        VerdictError: the file cannot be used, and nothing was imported.
        SourceError: it does not exist, or the manifest is there already.
    """
    if cells is not None:
        new_manifest(cells, "--cells")
    frozen = published_batch(store, batch)
    try:
        fs, path = filesystem(file)
        refuse_large(fs.size(path) or 0)
        found, model = _changes(store, frozen, read_objects(read_bytes(file)))
    except FileNotFoundError:
        raise SourceError(f"{file} does not exist") from None
    except VerdictError as error:
        raise VerdictError(f"{file}: {error}") from None
    lines = [
        _line(number, row, batch, verdict, reader or "")
        for number, row, verdict in found.verdicts
        if verdict != UNSURE
    ]
    done = import_lines(store, batch, lines, file, keep=keep).model_dump()
    if cells is not None and found.outlines and keep:
        write_manifest(Path(cells), pa.Table.from_pylist(found.outlines, SCHEMA))
        if any(row["label"] for row in found.outlines):
            more = ("--images", cells, "--model", model, "--store", store.url)
            done["commands"].append(shell_command("fit", *more))
    return OutlinesOutcome(
        **done,
        as_written=found.as_written,
        unsure=len(found.verdicts) - len(lines),
        moved=found.moved,
        drawn=len(found.outlines) - found.moved,
        cells=cells,
    )


def _line(number: int, row: Row, batch: str, verdict: str, reader: str) -> Line:
    note, verdict = (WHITE, OTHER) if verdict == WHITE else ("", verdict)
    return Line(number, row["image_id"], batch, verdict, note, reader)


def _changes(store: Store, batch: Batch, objects: list[Drawn]) -> tuple[Changes, str]:
    """Compare objects with the cells of the batch; return the changes, and the model's name."""
    wanted = {each.id for each in objects}
    cells: dict[str, Written] = {}
    model = ""
    for shard, rows in rows_by_shard(store, batch):
        ids = [object_id(uri) for uri in rows["uri"].to_pylist()]
        there = [at for at, each in enumerate(ids) if each in wanted and rows["x"][at].is_valid]
        model = str(rows["model"][0])
        if there:
            told, listed = rows.take(there), read_manifest(store, batch, shard).take(there)
            pairs = zip(told.to_pylist(), listed.to_pylist(), strict=True)
            cells |= {ids[at]: Written(*pair) for at, pair in zip(there, pairs, strict=True)}
    table = read_fields(store, batch)
    fields = table.filter(pc.is_valid(table["x"])).to_pylist()
    sources = {str(cell.listed["source_uri"]) for cell in cells.values()} | {
        row["source_uri"] for row in fields if object_id(field_identity(row)) in wanted
    }
    if len(sources) != 1:
        several = "of several photographs: import the objects of each by themselves"
        none = f"known to batch {batch.name}: edit a file that `slidewatch contours` has written"
        raise VerdictError(
            f"its objects are {several}" if sources else f"no object in it is {none}"
        )
    of_source = [row for row in fields if row["source_uri"] in sources]
    return find_changes(objects, cells, of_source, load_card(store, model).classes), model
