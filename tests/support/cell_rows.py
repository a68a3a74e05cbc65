"""Rows of the report on images, with the columns that tallies count."""

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from tasks.reports.image_columns import Provenance
from tasks.smears.counting.negative import Measured

MEASURED = Measured(least_size=80.0, least_sharpness=0.02, mean=0.01, deviation=0.01)
MADE_BY = Provenance("m", "d", "b", date(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC))
NAMES = {"model": "m", "detector": "d", "batch": "b", "batch_date": "2026-01-31"}
KINDS = {
    "slide_id": pa.string(),
    "patient_id": pa.string(),
    "status": pa.string(),
    "failure": pa.string(),
    "diagnosis": pa.string(),
    "abnormality": pa.float64(),
    "p_value": pa.float64(),
    "abnormal": pa.bool_(),
    "review_reason": pa.string(),
    "red": pa.float32(),
    "green": pa.float32(),
    "blue": pa.float32(),
}


def cell(slide: str | None = "s", patient: str | None = "p", **other: Any) -> dict[str, Any]:
    """An image row; ``failure`` makes it a failed one."""
    row = {
        "slide_id": slide,
        "patient_id": patient,
        "width": 100,
        "height": 90,
        "status": "scored",
        "diagnosis": "Uninfected",
        "abnormality": 0.0,
        "p_value": 0.5,
        "abnormal": False,
    }
    if "failure" in other:
        row |= {"status": "failed", "review_reason": "failed"}
        row |= dict.fromkeys(["diagnosis", "abnormality", "p_value", "abnormal"])
    return row | other


FAILED = {"failure": "damaged: it ends too soon"}
ABNORMAL = {"abnormal": True, "p_value": 0.001, "abnormality": 5.0, "review_reason": "abnormal"}
UNCERTAIN = {"review_reason": "uncertain"}
PARASITIZED = {"diagnosis": "Parasitized"}
