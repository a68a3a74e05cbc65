"""Add the results of a second look to the rows of an image report.

A second look never cancels a review. Its results are added to those of the first look, by which
slides are counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.bundles import take
from tasks.detector.verdict import Reason, VerdictRule, format_reasons, parse_reasons
from tasks.reports.image_columns import flags, is_for_review
from tasks.types import Float

MADE = "made"
BEYOND = "beyond the night's share"


@dataclass(frozen=True)
class Looked:
    """Hold what a second look found of k images, in rows (k,) of the batch.

    ``outcome`` (k,) is `MADE`, or why there is none: a reason, a colon and the details. Of those,
    ``stability`` (k,) is NaN and ``unstable`` (k,) is false. ``probabilities`` (k, C) are NaN where
    those of the first pass stay.
    """

    rows: NDArray[np.int64]
    outcome: Sequence[str]
    probabilities: Float
    stability: Float
    unstable: NDArray[np.bool_]

    def to_table(self, classes: Sequence[str]) -> pa.Table:
        """Make a table to be stored."""
        chances = {
            f"probability_{name}": self.probabilities[:, c] for c, name in enumerate(classes)
        }
        return pa.table(
            {
                "row": pa.array(self.rows, pa.int64()),
                "second_look": pa.array(self.outcome, pa.string()),
                **{name: pa.array(values, pa.float64()) for name, values in chances.items()},
                "stability": pa.array(self.stability, pa.float64()),
                "unstable": pa.array(self.unstable, pa.bool_()),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table, classes: Sequence[str]) -> "Looked":
        """Read the results back from `to_table`."""
        chances = [table[f"probability_{name}"].to_numpy() for name in classes]
        return cls(
            table["row"].to_numpy(),
            table["second_look"].to_pylist(),
            np.stack(chances, axis=1),
            table["stability"].to_numpy(),
            np.asarray(table["unstable"].to_numpy(), bool),
        )

    @staticmethod
    def none(classes: int) -> "Looked":
        """Make the results of a look at no image."""
        nothing = np.zeros(0)
        return Looked(np.zeros(0, np.int64), [], np.zeros((0, classes)), nothing, np.zeros(0, bool))

    def within(self, start: int, stop: int) -> "Looked":
        """Return the images in rows ``start`` to ``stop``, counted from ``start``."""
        found = take(self, np.flatnonzero((self.rows >= start) & (self.rows < stop)))
        return replace(found, rows=found.rows - start)


def with_second_look(
    rows: pa.Table, classes: Sequence[str], rule: VerdictRule, looked: Looked | None
) -> pa.Table:
    """Add the columns of a second look to image rows, and update diagnoses.

    ``looked`` has the results for some of the rows of the first pass; None if the detector cannot
    look twice.
    """
    n = rows.num_rows
    first = np.stack([rows[f"probability_{name}"].to_numpy() for name in classes], axis=1)
    added = {f"first_probability_{name}": rows[f"probability_{name}"] for name in classes}
    outcome = np.full(n, None, object)
    stability, unstable = np.full(n, np.nan), np.zeros(n, bool)
    if looked is not None:
        scored, _, _ = flags(rows)
        outcome[scored & is_for_review(rows)] = BEYOND
        outcome[looked.rows] = looked.outcome
        stability[looked.rows], unstable[looked.rows] = looked.stability, looked.unstable
        made = np.asarray([each == MADE for each in looked.outcome], bool)
        rows = _diagnosed_anew(rows, classes, rule, first, looked, made)
    unknown = np.isnan(stability)
    added |= {
        "stability": pa.array(stability, pa.float64(), mask=unknown),
        "unstable": pa.array(unstable, pa.bool_(), mask=unknown),
        "second_look": pa.array(outcome, pa.string()),
    }
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return rows


def _diagnosed_anew(
    rows: pa.Table,
    classes: Sequence[str],
    rule: VerdictRule,
    first: NDArray[np.float32],
    looked: Looked,
    made: NDArray[np.bool_],
) -> pa.Table:
    """Replace probabilities, diagnoses and reasons of images with a second look."""
    anew = made & np.isfinite(looked.probabilities).all(axis=1)
    here, chances = looked.rows[anew], looked.probabilities[anew]
    changed = first.copy()
    changed[here] = chances
    for c, name in enumerate(classes):
        lost = rows[f"probability_{name}"].is_null().combine_chunks().to_numpy(False)
        rows = _replaced(rows, f"probability_{name}", pa.array(changed[:, c], mask=lost))
    diagnoses = rows["diagnosis"].to_pylist()
    reasons = rows["review_reason"].to_pylist()
    names = np.asarray(classes, object)[chances.argmax(axis=1)]
    uncertain = here[~(chances.max(axis=1) >= rule.uncertain_below)]
    for row, name in zip(here.tolist(), names, strict=True):
        diagnoses[row] = name
    for reason, found in (
        (Reason.UNCERTAIN, uncertain),
        (Reason.UNSTABLE, looked.rows[made & looked.unstable]),
    ):
        for row in found.tolist():
            known = {*parse_reasons(reasons[row]), reason}
            reasons[row] = format_reasons([each for each in Reason if each in known])
    rows = _replaced(rows, "diagnosis", pa.array(diagnoses, pa.string()))
    return _replaced(rows, "review_reason", pa.array(reasons, pa.string()))


def _replaced(rows: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, column)
