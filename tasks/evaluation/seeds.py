"""Average the metrics of an evaluation over its seeds, in the order in which reports show them."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.evaluation.metrics import AS_FILES, METRICS

COVARIATE, ATTACK, ALARMS, DIAGNOSIS = "covariate", "attack", "false alarms", "diagnosis"
# The full spectrum: ordinary slides, slides with something planted, slides wholly of one kind.
BY_SLIDE, PLANTED, WHOLE = "slides as they are", "planted in slides", "slides of one kind"
WHOLE_NIGHTS = "whole nights"  # strange as a whole or for a part, in different company
COMPOSED = "composed slides"  # of known parasitaemia
NIGHTS = (BY_SLIDE, PLANTED, WHOLE, WHOLE_NIGHTS)
# Groups stand in this order; all others, which are of foreign images, stand between the two.
FIRST = (*NIGHTS, "near", "near, masked", "far")
LAST = (ATTACK, COVARIATE, ALARMS, DIAGNOSIS, COMPOSED)
ORDINARY = (COVARIATE, ALARMS, DIAGNOSIS, COMPOSED)  # to call such a cell abnormal is a false alarm
THRESHOLD = "threshold"  # a metric that is drawn, not tabulated: the own detector's, by seed

_COMPARED = ["group", "set", "strength", "images", "against"]


class Compared(NamedTuple):
    """Say what one row of a table is about."""

    group: str
    set: str
    strength: float | None
    images: str | None
    against: str | None


class Column(NamedTuple):
    """Say what one column of a table is about: a detector, or else the network or the attack."""

    detector: str | None
    metric: str


class Mean(NamedTuple):
    """Hold a figure over seeds; counts are the smallest and the largest over seeds."""

    value: float | None
    low: float | None
    high: float | None
    seeds: int
    positives: tuple[int | None, int | None]
    negatives: tuple[int | None, int | None]


Means = dict[Compared, dict[Column, Mean]]


def over_seeds(metrics: pa.Table) -> pa.Table:
    """Make a row per comparison, detector and metric, in the order in which the table names them.

    Args:
        metrics: as ``METRICS``; other columns are ignored.

    Returns:
        The keys with ``mean``, ``min``, ``max`` of the finite values, ``low`` and ``high``, the
        outermost bounds of the seeds' intervals, ``seeds``, how many have a value, and the
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
    """Average the figures of every comparison, in the order in which reports show them."""
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
    """Place a group among others."""
    places = {name: i for i, name in enumerate((*FIRST, None, *LAST))}
    return places.get(group, len(FIRST)), group
