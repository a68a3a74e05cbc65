"""Define the columns of the report on batches, and read earlier rows of it."""

from datetime import date

import pyarrow as pa

from storage import records
from storage.parquet import read_table
from storage.reports.schemas.shared import (
    ABNORMAL,
    COUNT,
    COUNTS,
    FAILURES,
    MADE_BY,
    PARASITIZED,
    REVIEW,
    UNCERTAIN,
    Column,
    histogram,
    number_of,
    schema_of,
)
from storage.reports.tables import BATCHES
from storage.smears.schemas.columns import count, images, number, text
from storage.smears.schemas.counts import STEADY
from storage.store import Store

_FILES = "count(DISTINCT coalesce(source_uri, uri))"
_FILES_FAILED = f"{_FILES} - {_FILES} FILTER (is_scored)"
COLUMNS = [
    count("images", "images of the batch", "images", "count(uri)"),
    images("scored", "of these, scored", "is_scored"),
    FAILURES,
    count("files", "photographs, slides and pictures of single cells", "files", _FILES),
    count("files_failed", "those without a scored image", "files", _FILES_FAILED),
    Column("diagnoses", COUNTS, "scored images by diagnosis", "images", histogram("diagnosis")),
    PARASITIZED,
    number("alpha", "the detector's level"),
    ABNORMAL,
    images("discoveries", "scored images whose q_value is at most .1", "q_value <= .1"),
    UNCERTAIN,
    REVIEW,
    images(
        "beyond_population",
        "scored images whose population_p_value is at most alpha",
        "population_p_value <= $alpha",
    ),
    count("slides", "slides; images that name none count as one", "slides"),
    count("slides_for_review", "slides for review by a person", "slides"),
    count(
        "slides_shifted", "slides further away than any fitted slide; null if not known", "slides"
    ),
    count(
        "slides_implausible", "slides that cannot be a smear of blood; null if not known", "slides"
    ),
    Column("p_values", pa.list_(COUNT), "p-values in 20 equal bins from 0 to 1", "images"),
    Column(
        "tap_scores",
        pa.map_(pa.string(), pa.list_(COUNT)),
        "by tap, standardised log distances in bins with edges at -2, -1.5, -1, -.5, 0, .5, 1, "
        "1.5, 2, 3 and 5",
        "images",
    ),
    number("ks_distance", "Kolmogorov-Smirnov distance of p_values from uniform"),
    number("psi", "population stability index of the score, calibration"),
    number("psi_earlier", "the same against earlier nights; null: too few"),
    count("nights", "earlier nights that this one was compared with"),
    text("light", "green, amber or red"),
    Column("reasons", pa.list_(pa.string()), "why it is not green; what could not be judged"),
    Column(
        "patient_calls",
        COUNTS,
        "how many patients are positive, suspected, negative, indeterminate and unreadable",
        "patients",
    ),
    Column("arithmetic", pa.string(), "how the network multiplied"),
    *MADE_BY,
]

MORE = {**STEADY, "repeated": number_of("repeated")}

BATCH_SCHEMA = schema_of(COLUMNS)


def read_batches_before(
    store: Store, day: date, limit: int, on_damage: records.Tell | None = None
) -> pa.Table:
    """Read the rows of the last batches before a day, oldest first, as `read_readable` does."""
    paths: list[tuple[str, ...]] = []
    for folder in reversed(store.names("reports", BATCHES)):
        if folder.removeprefix("batch_date=") < day.isoformat() and len(paths) < limit:
            names = store.names("reports", BATCHES, folder)
            paths += [("reports", BATCHES, folder, name) for name in reversed(names)]
    files = ["/".join(path) for path in reversed(paths[:limit])]
    rows = records.read_readable(lambda file: read_table(store, file), files, on_damage)
    # Rows of other versions lack columns, and have columns that are unknown.
    tables = [BATCH_SCHEMA.empty_table()]
    for row in rows:
        names = [name for name in BATCH_SCHEMA.names if name in row.column_names]
        tables.append(row.select(names).cast(pa.schema(map(BATCH_SCHEMA.field, names))))
    return pa.concat_tables(tables, promote_options="default")
