"""Hold the counts by which a batch is judged, and make its row of the report on batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    clusters: Counts
    """p-values by patient, or slide without one, and bin, (K, BINS)."""
    tap_scores: Mapping[str, Counts]
    """Images by tap and bin of its standardised log distance, (len(TAP_EDGES) + 1,)."""

    @property
    def p_values(self) -> Counts:
        """Count the p-values in each bin, (BINS,)."""
        return np.asarray(self.clusters.sum(axis=0))

    @property
    def failed(self) -> int:
        """Count the images that failed."""
        return int(self.row["images"] - self.row["scored"])


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
    batches: list[Row] = rows.to_pylist(maps_as_pydicts="strict")
    return batches
