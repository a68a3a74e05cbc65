"""The rows of an image report, as a table of columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from tasks.detector.detector import Scores
from tasks.detector.probabilities import probabilities
from tasks.reports.columns import ACCEPT, COLOURS, RED, REVIEW
from tasks.types import Float

PIECE = ("source_uri", "x", "y", "level", "kind", "touches_border")


def image_rows(
    manifest: pa.Table,
    *,
    image_ids: Sequence[str | None],
    sizes: NDArray[np.int32],
    colours: NDArray[np.float32] | None,
    failures: Mapping[int, str],
    logits: NDArray[np.float32],
    scores: Scores,
    classes: Sequence[str],
    taps: Sequence[str],
    temperature: float,
    alpha: float,
    uncertain_below: float,
    names: Mapping[str, Any],
) -> pa.Table:
    """The report's rows of one shard, all but ``q_value``, which needs the whole batch.

    A red cell that the border of its field cuts is diagnosed, but has no abnormality.

    Args:
        manifest: n rows of the manifest.
        image_ids: n digests, None where a file could not be read.
        sizes: (n, 2), width and height in pixels.
        colours: (n, 3), mean red, green and blue, NaN where unknown; None where all are.
        failures: why a row failed, by row number; all other rows are scored.
        logits: (n, C).
        scores: of the n rows; what stands in rows that failed is ignored.
        classes: the C class names.
        taps: the names of the scores' T taps.
        temperature: that divides the logits.
        alpha: an image is abnormal when its p-value is at most this.
        uncertain_below: an image is uncertain when its diagnosis is less probable than this.
        names: what is the same in all rows: model, detector, batch, batch_date, scored_at.
    """
    n = manifest.num_rows
    failed = np.zeros(n, bool)
    failed[list(failures)] = True
    chances = probabilities(logits, temperature)
    # Half a cell is unlike all whole ones, whatever it is: its abnormality would say nothing.
    unjudged = failed | _is_cut(manifest)
    abnormal = (scores.p_value <= alpha) & ~unjudged
    # Not "<", which is false of NaN: a diagnosis without a probability must not be accepted.
    uncertain = ~(chances.max(axis=1) >= uncertain_below)

    def where_scored(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=failed)

    def where_judged(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=unjudged)

    columns = {
        "image_id": pa.array(image_ids, pa.string()),
        **{
            name: manifest[name].combine_chunks()
            for name in ("uri", "label", "slide_id", "patient_id", "acquired_at")
        },
        **{
            name: manifest[name].combine_chunks()
            if name
            in manifest.column_names  # a night may have been frozen before there were regions
            else pa.nulls(n)
            for name in PIECE
        },
        "width": where_scored(sizes[:, 0], pa.int32()),
        "height": where_scored(sizes[:, 1], pa.int32()),
        **{
            name: pa.nulls(n, pa.float32())
            if colours is None
            else pa.array(colours[:, k], pa.float32(), mask=failed | np.isnan(colours[:, k]))
            for k, name in enumerate(COLOURS)
        },
        "status": pa.array(np.where(failed, "failed", "scored")),
        "failure": pa.array([failures.get(row) for row in range(n)], pa.string()),
        "diagnosis": where_scored(
            np.asarray(classes, object)[_argmax(chances)].tolist(), pa.string()
        ),
        **{
            f"probability_{name}": where_scored(chances[:, c], pa.float32())
            for c, name in enumerate(classes)
        },
        **{
            f"distance_{name}": where_judged(scores.distances[:, t], pa.float64())
            for t, name in enumerate(taps)
        },
        "abnormality": where_judged(scores.abnormality, pa.float64()),
        "p_value": where_judged(scores.p_value, pa.float64()),
        "abnormal": where_judged(abnormal, pa.bool_()),
        "verdict": pa.array(np.where(failed | abnormal | uncertain, REVIEW, ACCEPT)),
        "review_reason": pa.array(_reasons(failed, abnormal, uncertain), pa.string()),
        **{name: pa.repeat(pa.scalar(value), n) for name, value in names.items()},
    }
    return pa.table(columns)


def _is_cut(manifest: pa.Table) -> NDArray[np.bool_]:
    """Which rows (n,) are red cells that the border of their field cuts."""
    if "touches_border" not in manifest.column_names:
        return np.zeros(manifest.num_rows, bool)
    # A white cell is abnormal, whole or not.
    cut = pc.and_(manifest["touches_border"], pc.equal(manifest["kind"], RED))
    return np.asarray(pc.fill_null(cut, False).to_numpy(), bool)


def q_values(p_values: Float) -> Float:
    """Benjamini-Hochberg q-values (n,) of p-values (n,); NaN, for failed images, stays NaN.

    Among images whose q-value is at most q, the expected share of false alarms is at most q where
    p-values depend on each other positively or not at all (Benjamini & Yekutieli 2001); cells of
    one patient do, but no theorem covers them all.
    """
    found = np.full(len(p_values), np.nan)
    scored = np.isfinite(p_values)
    if scored.any():
        found[scored] = false_discovery_control(p_values[scored], method="bh")
    return found


def _argmax(chances: Float) -> NDArray[np.intp]:
    return np.asarray(np.where(np.isnan(chances), -np.inf, chances).argmax(axis=1))


def _reasons(
    failed: NDArray[np.bool_], abnormal: NDArray[np.bool_], uncertain: NDArray[np.bool_]
) -> list[str | None]:
    reasons = np.full(len(failed), None, object)
    reasons[uncertain] = "uncertain"
    reasons[abnormal] = "abnormal"
    reasons[abnormal & uncertain] = "abnormal, uncertain"
    reasons[failed] = "failed"
    return list(reasons)
