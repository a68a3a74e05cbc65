"""Hold the counts by which a batch is judged, and make its row of the report on batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.reports.image_columns import table_of
from tasks.types import Counts

BINS = 20  # of p-values; the first holds images abnormal at the default alpha of .05
# Of a tap's standardised log distances; the outermost bins are open.
TAP_EDGES = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)

Row = Mapping[str, Any]  # of the report on batches


@dataclass(frozen=True)
class NightCounts:
    """The counts of a night."""

    row: Row
    """The columns of the report on batches that count images."""
    by_patient: Mapping[str, Counts]
    """p-values of each patient, or slide without one, by bin, (BINS,)."""
    tap_scores: Mapping[str, Counts]
    """Images by tap and bin of its standardised log distance, (len(TAP_EDGES) + 1,)."""

    @cached_property
    def clusters(self) -> Counts:
        """Count the p-values by patient, in the order of names, and bin, (K, BINS)."""
        counts = [self.by_patient[name] for name in sorted(self.by_patient)]
        return np.stack(counts) if counts else np.zeros((0, BINS), np.int64)

    @property
    def p_values(self) -> Counts:
        """Count the p-values in each bin, (BINS,)."""
        return np.asarray(self.clusters.sum(axis=0))

    @property
    def failed(self) -> int:
        """Count the images that failed."""
        return int(self.row["images"] - self.row["scored"])


def joined(nights: Sequence[NightCounts]) -> NightCounts:
    """Add the counts of parts of a night; no patient is in two of them."""
    by_patient = {name: counts for night in nights for name, counts in night.by_patient.items()}
    row, tap_scores = nights[0].row, nights[0].tap_scores
    for night in nights[1:]:
        row, tap_scores = _sum(row, night.row), _sum(tap_scores, night.tap_scores)
    return NightCounts(row, by_patient, tap_scores)


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Add numbers and mappings of numbers by name; a missing one is 0."""
    return {
        name: _sum(one.get(name, {}), other.get(name, {}))
        if isinstance(one.get(name, other.get(name)), Mapping)
        else one.get(name, 0) + other.get(name, 0)
        for name in {**one, **other}
    }


def shares(row: Row) -> dict[str, float]:
    """Compute the shares of a night to compare with other nights."""
    of_scored = ("abnormal", "parasitized", "beyond_population")
    return {
        **{name: row[name] / row["scored"] for name in of_scored if row["scored"]},
        **({"review": row["review"] / row["images"]} if row["images"] else {}),
    }


def batch_table(night: NightCounts, judged: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Make the row of the report on batches; maps are sorted, so equal ones have equal bytes."""
    bins = {
        "p_values": night.p_values.tolist(),
        "tap_scores": {tap: counts.tolist() for tap, counts in night.tap_scores.items()},
    }
    row = {
        name: sorted(value.items()) if isinstance(value, Mapping) else value
        for name, value in {**night.row, **bins, **judged}.items()
    }
    return table_of([row], schema)


def summaries(rows: pa.Table) -> Sequence[Row]:
    """Read rows of the report on batches, with maps as dictionaries."""
    return list(rows.to_pylist(maps_as_pydicts="strict"))
