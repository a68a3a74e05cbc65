"""Keep the summary of a batch as one row of the report on batches."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from tasks.counting.expected import ExpectedErrors
from tasks.types import Light

BINS = 20  # of p-values; the first holds images abnormal at the default alpha of .05
P_VALUE_EDGES = tuple(place / BINS for place in range(BINS + 1))
# Of a tap's standardised log distances; the outermost bins are open.
TAP_EDGES = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)

EXPECTED = tuple(each.name for each in fields(ExpectedErrors))
_COUNTS, _EDGES = pa.list_(pa.int64()), pa.list_(pa.float64())
_KINDS = {
    "failures": pa.map_(pa.string(), pa.int64()),
    "p_values": _COUNTS,
    "p_value_edges": _EDGES,
    "tap_scores": pa.map_(pa.string(), _COUNTS),
    "tap_edges": _EDGES,
    "psi_taps": pa.map_(pa.string(), pa.float64()),
    **dict.fromkeys(
        ("slides_shifted", "slides_implausible", "implausible_cells", "beyond_population"),
        pa.int64(),
    ),
    "light": pa.string(),
    "laboratory": pa.string(),
    "arithmetic": pa.string(),
    "reasons": pa.list_(pa.string()),
    "scored_at": pa.timestamp("us", "UTC"),
    "patient_calls": pa.map_(pa.string(), pa.int64()),
    "expected_doubt": pa.string(),
    **dict.fromkeys((f"expected_{name}" for name in EXPECTED), pa.float64()),
    **dict.fromkeys(("ks_distance", "ks_p_value", "psi", "psi_earlier"), pa.float64()),
    **{f"parasitaemia_{name}": pa.float64() for name in ("percent", "low", "high")},
}


@dataclass(frozen=True)
class BatchSummary:
    """Hold a batch's row of the report on batches; the schema explains the fields.

    ``p_values`` are counts in bins between ``p_value_edges``; ``tap_scores`` are counts by tap in
    bins between ``tap_edges``, of which the outermost are open. ``patient_calls`` counts patients
    by call.
    """

    images: int
    scored: int
    failed: int
    failures: Mapping[str, int]
    parasitized: int
    parasitaemia_percent: float | None
    parasitaemia_low: float | None
    parasitaemia_high: float | None
    alpha: float
    abnormal: int
    discoveries: int
    uncertain: int
    review: int
    slides: int
    slides_for_review: int
    clusters: int
    p_values: tuple[int, ...]
    tap_scores: Mapping[str, tuple[int, ...]]
    ks_distance: float | None
    ks_p_value: float | None
    psi: float | None
    psi_earlier: float | None
    psi_taps: Mapping[str, float]
    nights: int
    light: Light
    reasons: tuple[str, ...]
    model: str
    detector: str
    batch: str
    batch_date: str
    scored_at: datetime
    p_value_edges: tuple[float, ...] = P_VALUE_EDGES
    tap_edges: tuple[float, ...] = TAP_EDGES
    slides_shifted: int | None = None
    slides_implausible: int | None = None
    implausible_cells: int | None = None
    beyond_population: int | None = None
    laboratory: str | None = None
    arithmetic: str | None = None
    patient_calls: Mapping[str, int] | None = None
    expected_false_calls: float | None = None
    expected_missed: float | None = None
    expected_sensitivity: float | None = None
    expected_sensitivity_low: float | None = None
    expected_sensitivity_high: float | None = None
    expected_accuracy: float | None = None
    expected_accuracy_low: float | None = None
    expected_accuracy_high: float | None = None
    expected_doubt: str | None = None

    @property
    def bins(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the edges of its histograms; nights with other edges are not compared by them."""
        return self.p_value_edges, self.tap_edges

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> "BatchSummary":
        """Read a summary from a row of the report on batches, of any version."""
        values = {each.name: row[each.name] for each in fields(cls) if each.name in row}
        for name in ("p_value_edges", "tap_edges"):
            if values.get(name, ()) is None:
                del values[name]
        for name in ("failures", "tap_scores", "psi_taps"):
            values[name] = dict(values[name] or ())
        if values.get("patient_calls") is not None:
            values["patient_calls"] = dict(values["patient_calls"])
        for name in ("p_values", "p_value_edges", "tap_edges", "reasons"):
            if name in values:
                values[name] = tuple(values[name] or ())
        values["tap_scores"] = {tap: tuple(n) for tap, n in values["tap_scores"].items()}
        return cls(**values | {"light": Light(row["light"])})

    def to_table(self) -> pa.Table:
        """Make the row of the report; maps are sorted, so that equal maps have equal bytes."""
        columns = {}
        for each in fields(self):
            value = getattr(self, each.name)
            value = sorted(value.items()) if isinstance(value, Mapping) else value
            columns[each.name] = pa.array([value], _KINDS.get(each.name))
        return pa.table(columns)
