"""Group the rows of a batch's report on images into those of the other reports, in SQL.

Every figure of these reports that can be summed is an expression in the list of the report's
columns (`storage.reports.schemas`). DuckDB uses one thread, so that sums of floating-point numbers
do not depend on the order in which threads finish.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.reports.schemas import shared
from storage.smears.schemas import batches, fields, patients, slides

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GiB"  # beyond it DuckDB writes to a temporary folder

# Each image, with the conditions that columns count by. A cell counts once: copies are left out.
CELLS = """CREATE VIEW cells AS SELECT *,
  status = 'scored' AS is_scored,
  NOT repeated AND (kind IS NULL OR kind = 'red') AS is_red,
  is_red AND coalesce(diagnosis = 'Parasitized', false) AS is_parasitized,
  coalesce(abnormal, false) AS is_abnormal,
  is_scored AND is_red AND coalesce(isfinite(log_odds), false) AS is_diagnosed,
  is_parasitized OR (is_red AND coalesce(log_odds >= 0, false)) AS looks_parasitized,
  is_diagnosed AND coalesce(abnormality, 0) <= {strangest} AS is_suspectable,
  is_suspectable AND abnormality IS NOT NULL AS is_read,
  coalesce(list_contains(string_split(review_reason, ', '), 'uncertain'), false) AS is_uncertain,
  split_part(failure, ':', 1) AS failure_reason
FROM read_parquet({images})"""

# Images, fields and shifts of slides together, so that one GROUP BY counts all of a slide.
TOGETHER = """CREATE VIEW together AS
SELECT * FROM cells
UNION ALL BY NAME
SELECT slide_id, patient_id, true AS is_field, review_reason AS field_reason,
  CASE WHEN kind IS DISTINCT FROM 'field'
    THEN coalesce(kind, split_part(failure, ':', 1), 'failed') END AS field_left_out,
  sharpness
FROM fields
UNION ALL BY NAME
SELECT slide_id, shift, shifted, smear_shift, smear_spread, implausible FROM shifts"""

# True if the middle of a cell lies in a field. A source that failed has one field without a box,
# and a failed cell has no size.
INSIDE = """cells.source_uri = fields.source_uri AND (fields.x IS NULL OR (
  cells.x + coalesce(cells.width, 0) / 2 >= fields.x
  AND cells.x + coalesce(cells.width, 0) / 2 < fields.x + fields.width
  AND cells.y + coalesce(cells.height, 0) / 2 >= fields.y
  AND cells.y + coalesce(cells.height, 0) / 2 < fields.y + fields.height))"""

BY_FIELD = f"""SELECT fields.number, {{columns}} FROM fields LEFT JOIN cells ON {INSIDE}
GROUP BY fields.number ORDER BY fields.number"""

LOST = f"""SELECT uri, source_uri FROM cells
WHERE source_uri IS NOT NULL AND NOT EXISTS (SELECT 1 FROM fields WHERE {INSIDE}) LIMIT 1"""

BY_SLIDE = "SELECT {columns} FROM together GROUP BY slide_id ORDER BY slide_id NULLS LAST"

# A slide without a patient counts as one; images with neither are one more.
BY_PATIENT = """SELECT {columns} FROM (
  SELECT together.* EXCLUDE (slide_id, is_read, is_suspectable, is_diagnosed),
    together.is_read AND judged.is_readable AS is_read,
    together.is_suspectable AND judged.is_readable AS is_suspectable,
    together.is_diagnosed AND judged.is_readable AS is_diagnosed,
    coalesce(together.slide_id, '') AS slide, judged.is_readable, judged.is_new, judged.is_covered,
    judged.faults,
    CASE WHEN patient_id IS NULL THEN together.slide_id END AS own_slide
  FROM together JOIN judged ON together.slide_id IS NOT DISTINCT FROM judged.slide_id
  WHERE uri IS NOT NULL OR is_field)
GROUP BY patient_id, own_slide ORDER BY patient_id NULLS LAST, own_slide NULLS LAST"""

OF_BATCH = "SELECT {columns} FROM cells"

# A patient's p-values, or a slide's that names none, in bins (0, 1/n], (1/n, 2/n], ...
P_VALUES = """SELECT coalesce('patient ' || patient_id, 'slide ' || slide_id, 'slide None') AS name,
  greatest(0, ceil(p_value * $bins) - 1)::INT AS place, count(*) AS n
FROM cells WHERE p_value IS NOT NULL GROUP BY ALL"""

# Standardised log distances of a tap, by the number of edges that they reach.
TAP_SCORES = """SELECT len(list_filter($edges, lambda edge: edge <= score)) AS place, count(*) AS n
FROM (SELECT (ln(greatest(distance, $least)) - $mean) / $deviation AS score
  FROM (SELECT "distance_{tap}" AS distance FROM cells) WHERE distance IS NOT NULL)
GROUP BY ALL"""


class Grouping:
    """The images of a batch in a database in memory, with its fields and its slides' shifts."""

    def __init__(self, database: "duckdb.DuckDBPyConnection") -> None:
        self._database = database

    def fields(self, rows: pa.Table) -> pa.Table:
        """Count images by field, in the order of the fields' ``rows``.

        A cell belongs to the field of its source whose box contains the middle of its own box;
        ValueError if there is none.
        """
        numbered = rows.append_column("number", pa.array(np.arange(len(rows))))
        self._database.register("fields", numbered)
        counts = self._table(BY_FIELD, fields.COLUMNS).drop_columns(["number"])
        ((cells,),) = self._database.sql("SELECT count(source_uri) FROM cells").fetchall()
        if pc.sum(counts["images"], min_count=0).as_py() < cells:
            ((uri, source),) = self._database.sql(LOST).fetchall()
            raise ValueError(
                f"{uri} lies in no field of {source}: screen the batch again with --force"
            )
        return counts

    def slides(self, fields: pa.Table | None, shifts: pa.Table, **thresholds: float) -> pa.Table:
        """Make the rows of slides by name, from images, judged fields and shifts.

        Images that name no slide are the last row. ``thresholds`` are the log-odds ``few``,
        ``many`` and ``sure`` of `tasks.smears.reports.calls.Counting`.
        """
        if fields is None:
            names = ("slide_id", "patient_id", "kind", "failure", "review_reason")
            nothing = {name: pa.array([], pa.string()) for name in names}
            fields = pa.table(nothing | {"sharpness": pa.array([], pa.float64())})
        self._database.register("fields", fields)
        self._database.register("shifts", shifts)
        self._database.execute(TOGETHER)
        return self._table(BY_SLIDE, slides.COLUMNS, slides.MORE, **thresholds)

    def patients(self, judged: pa.Table, **thresholds: float) -> pa.Table:
        """Make the rows of patients by name, from the cells of readable slides.

        ``judged`` has ``slide_id``, ``is_readable``, ``is_new``, ``is_covered`` and ``faults`` of
        each slide.
        """
        self._database.register("judged", judged)
        return self._table(BY_PATIENT, patients.COLUMNS, patients.MORE, **thresholds)

    def batch(self, alpha: float) -> dict[str, Any]:
        """Count the images of the batch."""
        table = self._table(OF_BATCH, batches.COLUMNS, batches.MORE, alpha=alpha)
        (row,) = table.to_pylist(maps_as_pydicts="strict")
        return dict(row)

    def p_values(self, bins: int) -> dict[str, NDArray[np.int64]]:
        """Count the p-values of each patient, or slide without one, in equal bins; (bins,)."""
        counts: dict[str, NDArray[np.int64]] = {}
        for name, place, n in self._database.execute(P_VALUES, {"bins": bins}).fetchall():
            counts.setdefault(name, np.zeros(bins, np.int64))[place] = n
        return counts

    def tap_scores(
        self, tap: str, mean: float, deviation: float, edges: tuple[float, ...]
    ) -> NDArray[np.int64]:
        """Count the log distances at a tap, standardised, between ``edges``; (edges + 1,)."""
        asked = {
            "edges": list(edges), "least": float(np.finfo(np.float64).tiny), "mean": mean,
            "deviation": deviation,
        }  # fmt: skip
        counts = np.zeros(len(edges) + 1, np.int64)
        for place, n in self._database.execute(
            TAP_SCORES.format(tap=tap.replace('"', '""')), asked
        ).fetchall():
            counts[place] = n
        return counts

    def _table(
        self, sql: str, columns: list[shared.Column], more: Mapping[str, str] = {}, **asked: float
    ) -> pa.Table:
        query = sql.format(columns=shared.selected(columns, more))
        return self._database.sql(query, params=asked).to_arrow_table()


@contextmanager
def grouping(images: Path, strangest: float) -> Iterator[Grouping]:
    """Open a report on images, a local file; cells of a higher abnormality never count."""
    import duckdb  # not where nothing is published

    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as database:
        database.execute("SET threads = 1")
        database.execute("SET memory_limit = $1", [MEMORY])
        database.execute("SET temp_directory = $1", [spill])
        quoted = str(images).replace("'", "''")
        database.execute(CELLS.format(images=f"'{quoted}'", strangest=strangest))
        yield Grouping(database)
