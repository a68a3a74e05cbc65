"""Make the one row that a batch has in the history of nights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.reports.batch_counts import NightTally
from tasks.reports.columns import REVIEW, as_map
from tasks.reports.light import Drift
from tasks.reports.parasitaemia import parasitaemia


def batch_row(
    night: NightTally,
    drift: Drift,
    *,
    alpha: float,
    slides: int,
    slides_for_review: int,
    names: Mapping[str, Any],
) -> pa.Table:
    """The one row that a batch has in the history of nights.

    Args:
        night: its counts.
        drift: what `judge` made of them.
        alpha: the detector's level.
        slides: how many there are.
        slides_for_review: how many of them need a person.
        names: what is the same in all reports: model, detector, batch, batch_date, scored_at.
    """
    one = {
        "alpha": alpha,
        "images": night.images,
        "scored": night.scored,
        "failed": night.images - night.scored,
        "parasitized": night.parasitized,
        "abnormal": night.abnormal,
        "discoveries": night.discoveries,
        "uncertain": night.uncertain,
        "review": night.verdicts[REVIEW],
        "slides": slides,
        "slides_for_review": slides_for_review,
        "clusters": len(night.clusters),
        "nights": drift.nights,
        "light": drift.light,
        **names,
    }
    floats = {
        name: getattr(drift, name) for name in ("ks_distance", "ks_p_value", "psi", "psi_earlier")
    }
    counts = pa.list_(pa.int64())
    columns = {
        **{name: pa.array([value]) for name, value in one.items()},
        **parasitaemia(np.asarray([night.parasitized]), np.asarray([night.red_cells]), ""),
        **{name: pa.array([value], pa.float64()) for name, value in floats.items()},
        "failures": as_map([night.failures]),
        "p_values": pa.array([night.p_values.tolist()], counts),
        "tap_scores": pa.array(
            [sorted((tap, values.tolist()) for tap, values in night.tap_scores.items())],
            pa.map_(pa.string(), counts),
        ),
        "psi_taps": pa.array([sorted(drift.psi_taps.items())], pa.map_(pa.string(), pa.float64())),
        "reasons": pa.array([list(drift.reasons)], pa.list_(pa.string())),
    }
    return pa.table(columns)
