"""Define what a column of a table is, and the columns that several tables share."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa

TEXT = pa.dictionary(pa.int32(), pa.string())
COUNT = pa.int64()
SHARE = pa.float64()
COUNTS = pa.map_(pa.string(), pa.int64())
COLOURS = ("red", "green", "blue")


class Column(NamedTuple):
    """A column of a table; ``sql`` computes it from a group of rows, else Python from others."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str | None = None
    sql: str | None = None


def schema_of(columns: Iterable[Column]) -> pa.Schema:
    """Make a schema with the meaning and unit of each column in the metadata of its field."""
    return pa.schema(
        [
            pa.field(
                each.name,
                each.type,
                metadata={"meaning": each.meaning} | ({"unit": each.unit} if each.unit else {}),
            )
            for each in columns
        ]
    )


def selected(columns: Iterable[Column], more: Mapping[str, str]) -> str:
    """Write the list of a SELECT: the columns that have SQL, and further expressions by name."""
    expressions = {each.name: each.sql for each in columns if each.sql} | dict(more)
    return ",\n  ".join(f"{sql} AS {name}" for name, sql in expressions.items())


def number_of(condition: str) -> str:
    """Write the SQL that counts the rows of a group for which a condition holds."""
    return f"count(*) FILTER ({condition})"


def histogram(expression: str) -> str:
    """Write the SQL that counts the values of a text, null excluded, as a map sorted by value."""
    return f"CAST(coalesce(histogram({expression}), MAP {{}}) AS MAP(VARCHAR, BIGINT))"


def colour(meaning: str, sql: str | None = None) -> list[Column]:
    """Define the mean red, green and blue of something; ``sql`` has {} for the colour."""
    return [
        Column(
            name, pa.float32(), f"{name}, {meaning}", "0 to 255", sql.format(name) if sql else None
        )
        for name in COLOURS
    ]


def _images(name: str, meaning: str, condition: str) -> Column:
    return Column(name, COUNT, meaning, "images", number_of(condition))


# Counts of images in several reports.
FAILURES = Column(
    "failures", COUNTS, "how many failed, by reason", "images", histogram("failure_reason")
)
PARASITIZED = _images("parasitized", "red cells diagnosed as parasitized", "is_parasitized")
ABNORMAL = _images("abnormal", "scored images that are abnormal", "is_abnormal")
UNCERTAIN = _images("uncertain", "scored images whose diagnosis is uncertain", "is_uncertain")
REVIEW = _images("review", "images for review by a person", "verdict = 'review'")

# Dictionary-encoded text is the only type with which DuckDB, Polars and pyarrow (so pandas) all
# accept that the column and the folder's name are the same.
OF_BATCH = [
    Column("detector", TEXT, "the detector that scored"),
    Column("batch", TEXT, "the batch"),
    Column("batch_date", TEXT, "the day the batch belongs to", "YYYY-MM-DD"),
]
MADE_BY = [
    *OF_BATCH,
    Column("model", TEXT, "the model that diagnosed"),
    Column("scored_at", pa.timestamp("us", "UTC"), "when the scoring of the batch began"),
]
