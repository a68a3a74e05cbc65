"""Define columns and groups of columns that several reports share."""

import pyarrow as pa

TEXT = pa.dictionary(pa.int32(), pa.string())
COUNT = pa.int64()
COUNTS = pa.map_(pa.string(), pa.int64())
COLOURS = ("red", "green", "blue")


def parasitaemia(suffix: str, cells: str) -> list[pa.Field]:
    """Define a parasitaemia and its 95% interval, in percent of some cells."""
    bounds = {"percent": "share", "low": "lower bound of the share", "high": "upper bound"}
    return [
        column(
            f"parasitaemia{suffix}_{name}",
            pa.float64(),
            f"{what} of parasitized among {cells}"
            + ("" if name == "percent" else " (95%, Wilson)"),
            "%",
        )
        for name, what in bounds.items()
    ]


def per_1000() -> list[pa.Field]:
    """Define parasitized red cells per 1,000, and their 95% interval."""
    bounds = {"": "parasitized", "_low": "lower bound of it", "_high": "upper bound of it"}
    return [
        column(
            f"parasitized_per_1000{name}",
            pa.float64(),
            f"{what}, per 1,000 red cells" + (" (95%, Wilson)" if name else ""),
            "cells",
        )
        for name, what in bounds.items()
    ]


def colour(meaning: str) -> list[pa.Field]:
    """Define the mean red, green and blue of something."""
    return [column(name, pa.float32(), f"{name}, {meaning}", "0 to 255") for name in COLOURS]


def made_by() -> list[pa.Field]:
    """Define the columns for the model, detector and batch that made a row, and the time."""
    return [
        column(
            "laboratory",
            TEXT,
            "the laboratory and its version with which slides were compared; null: fitted slides",
        ),
        column("model", TEXT, "the model that diagnosed"),
        column("detector", TEXT, "the detector that scored"),
        column("batch", TEXT, "the batch"),
        # Dictionary-encoded text is the only type with which DuckDB, Polars and pyarrow (so pandas)
        # all accept that the column and the folder's name are the same.
        column("batch_date", TEXT, "the day the batch belongs to", "YYYY-MM-DD"),
        column("scored_at", pa.timestamp("us", "UTC"), "when the scoring of the batch began"),
    ]


def column(name: str, kind: pa.DataType, meaning: str, unit: str | None = None) -> pa.Field:
    """Define a column with its meaning and, if it has one, its unit."""
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)
