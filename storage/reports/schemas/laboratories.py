"""Define the columns of the table of laboratories, which queries use like the reports."""

import pyarrow as pa

from storage.reports.schemas.shared import COUNT, Column, schema_of


def laboratory_schema() -> pa.Schema:
    """Define the columns of a laboratory's one row, with meaning and unit in field metadata."""
    return schema_of(
        [
            Column("name", pa.string(), "the laboratory"),
            Column("laboratory", pa.string(), "its newest version, as reports name it"),
            Column("operation", pa.string(), "how this version came about"),
            Column("model", pa.string(), "the model that diagnoses there"),
            Column("detector", pa.string(), "the detector that scores there"),
            Column("nights", COUNT, "nights that it was learned from", "batches"),
            Column("slides", COUNT, "slides of these nights", "slides"),
            Column("cells", COUNT, "cells of these slides that were learned", "images"),
            *(
                Column(
                    f"false_alarms_{level:02d}",
                    pa.float64(),
                    f"share of ordinary cells called abnormal at .{level:02d}, a mean over slides, "
                    "each left out; null if not known",
                )
                for level in (5, 1)
            ),
            Column(
                "negative_slides",
                COUNT,
                "slides, or patients, known to be negative; null if the error rates of counting "
                "are not known there",
                "slides",
            ),
            Column(
                "false_positive_rate",
                pa.float64(),
                "share of healthy cells above the counting threshold there, a mean over slides",
            ),
            *(
                Column(f"false_positive_rate_{end}", pa.float64(), f"{end} end of its 95% interval")
                for end in ("low", "high")
            ),
            Column("created_at", pa.timestamp("us", "UTC"), "when this version was made"),
        ]
    )
