"""Average the metrics of an evaluation over its seeds, in the order of the reports."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.evaluation.metrics import AS_FILES, METRICS

COVARIATE, ATTACK, ALARMS, DIAGNOSIS = "covariate", "attack", "false alarms", "diagnosis"
# The full spectrum: ordinary slides, slides with something planted, slides of only one kind.
BY_SLIDE, PLANTED, WHOLE = "slides as they are", "planted in slides", "slides of one kind"
WHOLE_NIGHTS = "whole nights"  # strange as a whole or in part, in different company
NIGHTS = (BY_SLIDE, PLANTED, WHOLE, WHOLE_NIGHTS)
# The order of groups; all others, of foreign images, come between the two lists.
FIRST = (*NIGHTS, "near", "near, masked", "far")
LAST = (ATTACK, COVARIATE, ALARMS, DIAGNOSIS)
ORDINARY = (COVARIATE, ALARMS, DIAGNOSIS)  # calling such a cell abnormal is a false alarm
THRESHOLD = "threshold"  # a metric that is plotted, not tabulated: the own detector's, by seed

_COMPARED = ["group", "set", "strength", "images", "against"]


class Compared(NamedTuple):
    """The subject of one row of a table."""

    group: str
    set: str
    strength: float | None
    images: str | None
    against: str | None


class Column(NamedTuple):
    """The subject of one column of a table: a detector, or the network or attack."""

    detector: str | None
    metric: str


class Mean(NamedTuple):
    """A figure over seeds, with the smallest and the largest counts."""

    value: float | None
    low: float | None
    high: float | None
    seeds: int
    positives: tuple[int | None, int | None]
    negatives: tuple[int | None, int | None]


Means = dict[Compared, dict[Column, Mean]]


def over_seeds(metrics: pa.Table) -> pa.Table:
    """Make a row per comparison, detector and metric, in order of first appearance.

    Args:
        metrics: as ``METRICS``; other columns are ignored.

    Returns:
        The keys with ``mean``, ``min``, ``max`` of the finite values, ``low`` and ``high``, the
        outermost bounds of the seeds' intervals, ``seeds``, the number with a value, and the
        smallest and largest numbers of images, ``positives_min`` to ``negatives_max``.
    """
    table = metrics.select(METRICS.names).cast(METRICS)
    finite = {name: pc.is_finite(table[name]) for name in ("value", "low", "high")}
    for name, known in (finite | {"seed": finite["value"]}).items():
        values = pc.if_else(known, table[name], pa.scalar(None, table[name].type))
        table = table.set_column(table.schema.get_field_index(name), name, values)
    counts = [(name, how) for name in ("positives", "negatives") for how in ("min", "max")]
    reduced = table.group_by([*_COMPARED, "detector", "metric"], use_threads=False).aggregate(
        [
            *(("value", how) for how in ("mean", "min", "max")),
            ("low", "min"),
            ("high", "max"),
            ("seed", "count_distinct"),
            *counts,
        ]
    )
    names = {"value_mean": "mean", "value_min": "min", "value_max": "max", "low_min": "low"}
    return reduced.rename_columns(names | {"high_max": "high", "seed_count_distinct": "seeds"})


def means_over_seeds(metrics: pa.Table) -> Means:
    """Average the figures of every comparison, in the order of the reports."""
    means: Means = {}
    for row in over_seeds(metrics).to_pylist():
        if row["metric"] == THRESHOLD:
            continue
        comparison = Compared(
            row["group"] or "", row["set"] or "", row["strength"], row["images"], row["against"]
        )
        one = row["seeds"] == 1
        means.setdefault(comparison, {})[Column(row["detector"], row["metric"] or "")] = Mean(
            row["mean"],
            row["low" if one else "min"],
            row["high" if one else "max"],
            row["seeds"],
            (row["positives_min"], row["positives_max"]),
            (row["negatives_min"], row["negatives_max"]),
        )
    sets = {key: i for i, key in reversed(list(enumerate((c.group, c.set) for c in means)))}

    def place(comparison: Compared) -> tuple[Any, ...]:
        group, name, strength, images, against = comparison
        return (
            rank(group),
            sets[group, name],
            -np.inf if strength is None else strength,
            images != AS_FILES,
            images or "",
            against or "",
        )

    return {comparison: means[comparison] for comparison in sorted(means, key=place)}


def rank(group: str) -> tuple[int, str]:
    """Return a group's place in the order of groups."""
    places = {name: i for i, name in enumerate((*FIRST, None, *LAST))}
    return places.get(group, len(FIRST)), group
