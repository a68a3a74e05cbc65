"""Reports to query, and reports without what differs from night to night."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.reports import tables
from storage.reports.schemas.images import image_schema
from storage.smears.schemas.batches import BATCH_SCHEMA
from storage.smears.schemas.fields import FIELD_REPORT_SCHEMA
from storage.smears.schemas.patients import PATIENT_SCHEMA
from storage.smears.schemas.slides import SLIDE_SCHEMA
from storage.store import Store

SCHEMA = image_schema(["Parasitized", "Uninfected"], ["layer1"])
SCHEMAS = {tables.IMAGES: SCHEMA, tables.FIELDS: FIELD_REPORT_SCHEMA, tables.SLIDES: SLIDE_SCHEMA}
SCHEMAS |= {tables.PATIENTS: PATIENT_SCHEMA, tables.BATCHES: BATCH_SCHEMA}
DAYS = (date(2026, 1, 3), date(2026, 1, 4))


def publish_report(
    store: Store, path: tuple[str, ...], schema: pa.Schema, parts: Iterable[pa.Table]
) -> str:
    """Write one report part by part, complete or not at all; return its sha256."""
    with store.staged(*path) as stage:
        return tables.stage_report(stage, schema, parts)


def publish_rows(
    store: Store,
    kind: str,
    rows: list[dict[str, Any]],
    day: date,
    batch: str = "night",
    attempt: int = 1,
) -> None:
    """Publish a report of these rows; what they leave out is null."""
    schema = tables.of_attempt(SCHEMAS[kind], attempt)
    parts = [pa.Table.from_pylist(rows, schema)] if rows else []
    publish_report(store, tables.report_path(batch, day, kind), schema, parts)


def image_table(day: date, classes: Sequence[str], taps: Sequence[str]) -> tuple[pa.Schema, Any]:
    schema = image_schema(classes, taps)
    values: dict[str, Any] = {field.name: pa.nulls(3, field.type) for field in schema}
    values |= {
        "uri": [f"{day}/{row}.png" for row in range(3)],
        "verdict": ["review", "accept", None],
        "abnormality": [2.5, -0.5, None],
        "abnormal": [True, False, None],
        "batch_date": [day.isoformat()] * 3,
        "scored_at": pa.array([datetime(2026, 1, 3, 8, tzinfo=UTC)] * 3),
        f"probability_{classes[0]}": [0.5, 0.25, None],
    }
    return schema, pa.table(values)


def fill(store: Store) -> None:
    """Two nights of two models, which have no class and one of two taps in common."""
    for day, classes, taps in zip(
        DAYS, (["Parasitized", "Uninfected"], ["Ring", "None"]), (["l1"], ["l1", "l2"]), strict=True
    ):
        schema, rows = image_table(day, classes, taps)
        publish_report(store, tables.report_path("night", day), schema, [rows])
        for kind in (tables.FIELDS, tables.SLIDES, tables.BATCHES):
            schema = SCHEMAS[kind]
            nulls = pa.table({field.name: pa.nulls(1, field.type) for field in schema})
            publish_report(store, tables.report_path("night", day, kind), schema, [nulls])


def comparable(report: str | Path) -> pa.Table:
    """A report without what differs from night to night: where the copy lay, and when."""
    table = pq.ParquetFile(report).read()
    names = [uri.rsplit("/", 1)[1] for uri in table["uri"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("uri"), "uri", pa.array(names))
    return table.drop_columns(["scored_at"]).replace_schema_metadata()


def summaries_in(store: str) -> list[pa.Table]:
    """The reports on slides and on the batch, but for when it was made."""
    found = [sorted((Path(store) / "reports" / kind).rglob("*")) for kind in ("slides", "batches")]
    tables = [pq.ParquetFile(path).read() for paths in found for path in paths if path.is_file()]
    return [each.select([n for n in each.column_names if n != "scored_at"]) for each in tables]
