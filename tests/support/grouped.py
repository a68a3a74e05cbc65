"""The reports of a night on fields, slides, patients and the batch, grouped from image rows."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.smears.jobs.grouped_rows import Rules, group_rows
from storage.reports.schemas.images import image_schema
from storage.reports.schemas.shared import schema_of
from storage.reports.tables import BATCHES, FIELDS, PATIENTS, SLIDES
from storage.smears.schemas.batches import BATCH_SCHEMA
from storage.smears.schemas.fields import MEASURED
from tasks.limits import FieldLimits
from tasks.reports.image_columns import SHIFTS, Provenance, table_of
from tasks.smears.counting.call import Interpreter
from tasks.smears.reports.calls import Counting
from tasks.smears.reports.night.counts import Row, batch_table, summaries
from tasks.smears.reports.night.judged import batch_judged
from tests.support.cell_rows import MADE_BY

COUNTING = Counting(
    Interpreter(None, 0.01), lambda: Interpreter(None, 0.01), 5e6, 0.05, Interpreter(None, 0.01)
)
MEASURED_SCHEMA = schema_of(MEASURED)


@dataclass(frozen=True)
class Grouped:
    """The rows of each report."""

    tables: dict[str, pa.Table]

    @property
    def fields(self) -> list[dict[str, Any]]:
        return self._rows(FIELDS)

    @property
    def slides(self) -> list[dict[str, Any]]:
        return self._rows(SLIDES)

    @property
    def patients(self) -> list[dict[str, Any]]:
        return self._rows(PATIENTS)

    @property
    def batch(self) -> dict[str, Any]:
        (row,) = summaries(self.tables[BATCHES])
        return dict(row)

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.tables[kind].to_pylist()
        return rows


def as_published(rows: pa.Table, taps: Sequence[str] = ()) -> pa.Table:
    """Image rows with all columns of the report; no row is a copy unless it says so."""
    schema = image_schema(["Parasitized", "Uninfected"], taps)
    n, columns = len(rows), dict(zip(rows.column_names, rows.columns, strict=True))
    defaults = {
        "repeated": pa.array([False] * n, pa.bool_()),
        "uri": pa.array(map(str, range(n)), pa.string()),
    }
    given = defaults | columns
    given["repeated"] = pc.fill_null(given["repeated"], False)
    made = [
        given[each.name].cast(each.type) if each.name in given else pa.nulls(n, each.type)
        for each in schema
    ]
    return pa.table(made, schema=schema)


def group(
    cells: Sequence[Mapping[str, Any]] | pa.Table,
    *,
    fields: Sequence[Mapping[str, Any]] | None = None,
    shifts: Sequence[Mapping[str, Any]] = (),
    counting: Counting = COUNTING,
    scales: Mapping[str, tuple[float, float]] | None = None,
    earlier: Sequence[Row] = (),
    made_by: Provenance = MADE_BY,
) -> Grouped:
    """Group image rows, as a publication does."""
    if not isinstance(cells, pa.Table):
        schema = image_schema(["Parasitized", "Uninfected"], list(scales or {}))
        names = {name for cell in cells for name in cell}
        cells = table_of(cells, pa.schema([each for each in schema if each.name in names]))
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.parquet"
        pq.write_table(as_published(cells, list(scales or {})), images)
        given = None if fields is None else table_of(fields, MEASURED_SCHEMA)
        rules = Rules(FieldLimits(), counting, scales or {}, made_by)
        tables, night = group_rows(images, table_of(shifts, SHIFTS), given, rules)
    groups = (tables[SLIDES], tables[PATIENTS])
    judged = batch_judged(night, *groups, earlier, counting, made_by, tables.get(FIELDS))
    tables[BATCHES] = batch_table(night, judged | made_by.to_row(), BATCH_SCHEMA)
    return Grouped(tables)
