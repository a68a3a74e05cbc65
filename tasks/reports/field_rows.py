"""Turn a batch's fields of view and the rows of their cells into one row per field."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.limits import FieldLimits
from tasks.reports.field_limits import field_reason
from tasks.reports.image_columns import (
    Provenance,
    coded,
    flags,
    is_for_review,
    is_parasitized,
    is_red_cell,
    numbers_of,
    verdicts,
)
from tasks.types import Float

AT_ONCE = 4096  # cells compared with all fields of their slide at once
COUNTED = ("images", "scored", "red_cells", "parasitized", "abnormal", "review")


class FieldTally:
    """Count image rows by field of view; the rows may come in any order and in any parts.

    A cell belongs to the field of its source whose box contains the middle of its own box.

    Args:
        fields: a row for each field: ``source_uri``, its box ``x``, ``y``, ``width``, ``height`` in
            pixels at full resolution (null if the source failed), and its other columns.
        limits: a field beyond one goes to review.
    """

    def __init__(self, fields: pa.Table, limits: FieldLimits) -> None:
        self._fields, self._limits = fields, limits
        self._counts = np.zeros((fields.num_rows, len(COUNTED)), np.int64)
        # Left, upper, right and lower edges, (fields, 4).
        x, y, width, height = (numbers_of(fields, name) for name in ("x", "y", "width", "height"))
        self._boxes = np.stack([x, y, x + width, y + height], axis=1)
        codes, sources = coded(fields["source_uri"])
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes, minlength=len(sources))).tolist()
        self._of_source = {
            source: order[start:end]
            for source, (start, end) in zip(sources, pairwise([0, *ends]), strict=True)
        }

    def count(self, rows: pa.Table) -> None:
        """Count rows of the image report; rows without a source are in no field.

        Raises:
            ValueError: a cell is in none of the fields of its source.
        """
        scored, abnormal, _ = flags(rows)
        counted = {
            "images": np.ones(rows.num_rows, bool),
            "scored": scored,
            "red_cells": scored & is_red_cell(rows),
            "parasitized": is_parasitized(rows),
            "abnormal": abnormal,
            "review": is_for_review(rows),
        }
        places = self._places(rows)
        inside = places >= 0
        for column, name in enumerate(COUNTED):
            which = places[inside & counted[name]]
            self._counts[:, column] += np.bincount(which, minlength=len(self._counts))

    def table(self, made_by: Provenance) -> pa.Table:
        """Make the rows of the report on fields, in the order of the fields."""
        counts = dict(zip(COUNTED, self._counts.T, strict=True))
        reasons = [field_reason(row, self._limits) for row in self._fields.to_pylist()]
        columns = {
            **dict(zip(self._fields.column_names, self._fields.columns, strict=True)),
            **counts,
            "failed": counts["images"] - counts["scored"],
            "verdict": verdicts(reasons),
            "review_reason": pa.array(reasons, pa.string()),
            **made_by.to_columns(len(reasons)),
        }
        return pa.table(columns)

    def _places(self, rows: pa.Table) -> NDArray[np.intp]:
        """Find the number of each row's field, (n,); -1 without a source."""
        codes, sources = coded(rows["source_uri"])
        middles = _middles(rows)
        places = np.full(rows.num_rows, -1, np.intp)
        for code, source in enumerate(sources):
            if source is None:
                continue
            fields = self._of_source.get(source, np.empty(0, np.intp))
            numbers = np.flatnonzero(codes == code)
            for start in range(0, len(numbers), AT_ONCE):
                some = numbers[start : start + AT_ONCE]
                inside = _lie_in(middles[some], self._boxes[fields])
                lost = some[~inside.any(axis=1)]
                if len(lost):
                    raise ValueError(
                        f"{rows['uri'][int(lost[0])].as_py()} lies in no field of {source}: screen "
                        "the batch again with --force"
                    )
                places[some] = fields[inside.argmax(axis=1)]
        return places


def lies_in(rows: pa.Table, boxes: Sequence[tuple[int, int, int, int]]) -> NDArray[np.bool_]:
    """Mark which of a source's n cells are in which of m boxes (x, y, width, height); (n, m)."""
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return _lie_in(_middles(rows), corners)


def _middles(rows: pa.Table) -> Float:
    """Compute the middles x, y of the boxes of image rows, (n, 2)."""
    x, y, width, height = (numbers_of(rows, name) for name in ("x", "y", "width", "height"))
    # Failed cells have no size; a corner of their box is in the field too.
    return np.stack([x + np.nan_to_num(width) / 2, y + np.nan_to_num(height) / 2], axis=1)


def _lie_in(points: Float, boxes: Float) -> NDArray[np.bool_]:
    """Mark which of n points (n, 2) are in which of m boxes (m, 4); (n, m)."""
    # A failed source has one field, whose edges are NaN and enclose every point.
    low = ~(points[:, np.newaxis] < boxes[:, :2])
    high = ~(points[:, np.newaxis] >= boxes[:, 2:])
    return np.asarray((low & high).all(axis=2))


# Columns of the image report that are needed for each cell.
COLUMNS = [
    *("image_id", "uri", "source_uri", "x", "y", "width", "height"),
    *("kind", "status", "diagnosis", "abnormal"),
]


def cells_of(rows: pa.Table, field: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Select the cells of a field among rows of the image report."""
    there = rows.filter(pc.equal(rows["source_uri"].cast(pa.string()), field["source_uri"]))
    if not there.num_rows:
        return []
    inside = lies_in(there, [(field["x"], field["y"], field["width"], field["height"])])[:, 0]
    return list(there.filter(pa.array(inside)).to_pylist())
