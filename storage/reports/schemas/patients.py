"""Define the columns of the report on patients."""

import pyarrow as pa

from storage.reports.schemas.counts import counts
from storage.reports.schemas.shared import COUNT, TEXT, column, made_by


def patient_schema() -> pa.Schema:
    """Define the columns of a patient report, with meaning and unit in field metadata."""
    return pa.schema(
        [
            column(
                "patient_id",
                TEXT,
                "the patient; null if a slide without one counts as a patient, or images have "
                "neither",
            ),
            column(
                "slide_id", TEXT, "the slide that counts as a patient; null if the patient is named"
            ),
            column("slides", COUNT, "slides with cells of the patient", "slides"),
            column(
                "slides_read",
                COUNT,
                "of these, those that can be read: their cells count",
                "slides",
            ),
            *counts("the patient's readable slides"),
            *made_by(),
        ]
    )
