"""Reports: ``reports/images/batch_date=YYYY-MM-DD/<batch>.parquet``, one row for each image.

A report is staged and renamed once, so a reader of the folder sees the old one or the new one.
"""

from collections.abc import Iterable, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from storage.store import Store, digest_of

_TEXT = pa.dictionary(pa.int32(), pa.string())


def image_schema(classes: Sequence[str], taps: Sequence[str]) -> pa.Schema:
    """The columns of an image report, with their meaning in the field metadata."""
    return pa.schema(
        [
            _field("image_id", pa.string(), "sha256 of the file's bytes; null where unreadable"),
            _field("uri", pa.string(), "where the image was read"),
            _field("label", _TEXT, "the class that the source gave the image, if any"),
            _field("slide_id", _TEXT, "the slide or field of view"),
            _field("patient_id", _TEXT, "the patient"),
            _field(
                "acquired_at", pa.timestamp("us"), "when the image was taken, as its source says"
            ),
            _field("width", pa.int32(), "original width", "pixels"),
            _field("height", pa.int32(), "original height", "pixels"),
            _field("status", _TEXT, "scored or failed"),
            _field("failure", pa.string(), "why it failed: a reason, a colon and the details"),
            _field("diagnosis", _TEXT, "the most probable class"),
            *(
                _field(f"probability_{name}", pa.float32(), f"calibrated probability of {name}")
                for name in classes
            ),
            *(
                _field(
                    f"distance_{name}",
                    pa.float64(),
                    f"squared Mahalanobis distance at tap {name} to the nearest class",
                    "within-class variances",
                )
                for name in taps
            ),
            _field(
                "abnormality",
                pa.float64(),
                "fused score, higher is more abnormal",
                "deviations of the log distance over calibration patients",
            ),
            _field("p_value", pa.float64(), "conformal p-value of the abnormality"),
            _field("q_value", pa.float64(), "Benjamini-Hochberg q-value over the batch"),
            _field("abnormal", pa.bool_(), "whether p_value is at most the detector's alpha"),
            _field("verdict", _TEXT, "accept, or review by a person"),
            _field("review_reason", _TEXT, "abnormal, uncertain, both, or failed"),
            _field("model", _TEXT, "the model that diagnosed"),
            _field("detector", _TEXT, "the detector that scored"),
            _field("batch", _TEXT, "the batch"),
            # Text in a dictionary is the one type under which DuckDB, Polars and pyarrow (so
            # pandas) all agree that the column and the folder's name are the same thing.
            _field("batch_date", _TEXT, "the day the batch belongs to", "YYYY-MM-DD"),
            _field("scored_at", pa.timestamp("us", "UTC"), "when the scoring of the batch began"),
        ]
    )


def _field(name: str, kind: pa.DataType, meaning: str, unit: str | None = None) -> pa.Field:
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


def report_path(batch: str, batch_date: date) -> tuple[str, ...]:
    """Where the image report of a batch lies, relative to the store."""
    return ("reports", "images", f"batch_date={batch_date.isoformat()}", f"{batch}.parquet")


def write_rows(store: Store, path: tuple[str, ...], rows: pa.Table) -> None:
    """Write rows of a report, complete or not at all."""
    with store.staged(*path) as stage:
        pq.write_table(rows, stage, compression="zstd")


def read_rows(store: Store, path: tuple[str, ...], columns: list[str] | None = None) -> pa.Table:
    """Read rows written by `write_rows` or `publish_report`."""
    with store.open(*path) as opened, pq.ParquetFile(opened, pre_buffer=True) as file:
        return file.read(columns=columns)


def publish_report(
    store: Store, path: tuple[str, ...], schema: pa.Schema, parts: Iterable[pa.Table]
) -> str:
    """Write a report part by part and let it appear at once; returns its sha256."""
    with store.staged(*path) as stage:
        with pq.ParquetWriter(stage, schema, compression="zstd") as writer:
            for part in parts:
                writer.write_table(part.select(schema.names).cast(schema))
        return digest_of(stage.read_bytes())


def report_digest(store: Store, path: tuple[str, ...]) -> str | None:
    """The sha256 of a report, or None where there is none."""
    return digest_of(store.read_bytes(*path)) if store.exists(*path) else None
