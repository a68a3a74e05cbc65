"""Find the cells of a field of view among image rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.reports.image_columns import numbers_of

# Columns of the image report that are needed for each cell.
COLUMNS = [
    *("image_id", "uri", "source_uri", "x", "y", "width", "height"),
    *("kind", "status", "diagnosis", "abnormal"),
]


def cells_of(rows: pa.Table, field: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Select the cells of a field among image rows: the middle of their box lies in the field's."""
    rows = rows.filter(pc.equal(rows["source_uri"].cast(pa.string()), field["source_uri"]))
    inside = np.ones(len(rows), bool)
    for start, size in (("x", "width"), ("y", "height")):
        # Failed cells have no size; a corner of their box is in the field too.
        middle = numbers_of(rows, start) + np.nan_to_num(numbers_of(rows, size)) / 2
        inside &= (middle >= field[start]) & (middle < field[start] + field[size])
    return list(rows.filter(pa.array(inside)).to_pylist())
