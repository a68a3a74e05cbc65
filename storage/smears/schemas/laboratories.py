"""Make the table of laboratories, the detectors that have learned, for queries."""

from typing import Any

import pyarrow as pa

from storage.models.detectors import DetectorCard, name_of
from storage.records import Tell
from storage.reports.schemas.shared import Column, schema_of
from storage.smears.learned import newest_learned
from storage.smears.schemas.columns import count, number
from storage.store import Store

LABORATORIES = "laboratories"

LABORATORY_SCHEMA = schema_of(
    [
        Column("name", pa.string(), "the laboratory"),
        Column("detector", pa.string(), "its newest detector, as reports name it"),
        Column("operation", pa.string(), "how this version came about"),
        Column("model", pa.string(), "the model that diagnoses there"),
        Column("parent", pa.string(), "the fitted detector that it was made from"),
        count("nights", "nights that it was learned from", "batches"),
        count("slides", "slides of these nights", "slides"),
        count("cells", "cells of these slides that were learned", "images"),
        *(
            number(
                f"false_alarms_{level:02d}",
                f"share of ordinary cells called abnormal at .{level:02d}, a mean over slides, "
                "each left out; null if not known",
            )
            for level in (5, 1)
        ),
        count(
            "negative_slides",
            "slides, or patients, known to be negative; null if the error rates of counting "
            "are not known there",
            "slides",
        ),
        number(
            "false_positive_rate",
            "share of healthy cells above the counting threshold there, a mean over slides",
        ),
        *(
            number(f"false_positive_rate_{end}", f"{end} end of its 95% interval")
            for end in ("low", "high")
        ),
        Column("created_at", pa.timestamp("us", "UTC"), "when this version was made"),
    ]
)


def laboratories(store: Store, on_damage: Tell | None) -> pa.Table:
    """Make a row for each laboratory, of its newest detector."""
    rows = [_row(card) for card in newest_learned(store, on_damage)]
    return pa.Table.from_pylist(rows, LABORATORY_SCHEMA)


def _row(card: DetectorCard) -> dict[str, Any]:
    learned, counting = card.learned, card.counting
    assert learned is not None
    rate = counting.counting.false_positives if counting else None
    return {
        **card.model_dump(include={"model", "parent", "created_at"}),
        "name": name_of(card.name),
        "detector": card.name,
        "operation": learned.operation,
        "nights": len(learned.nights),
        "slides": learned.slides,
        "cells": learned.cells,
        "false_alarms_05": learned.false_alarms.get("0.05"),
        "false_alarms_01": learned.false_alarms.get("0.01"),
        "negative_slides": rate and rate.slides,
        "false_positive_rate": rate and rate.mean,
        "false_positive_rate_low": rate and rate.low,
        "false_positive_rate_high": rate and rate.high,
    }
