"""Decide which fields are fit to be read, by limits on the measures of their quality.

Cells of a field beyond a limit are read all the same, but its slide goes to a person with the
reason. A few of a slide's hundreds of fields may be beyond a limit.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pyarrow as pa

from tasks.detector.verdict import format_reasons
from tasks.limits import FieldLimits
from tasks.types import FieldKind, Verdict


class FieldReason(StrEnum):
    """Name why a person looks at a field of view."""

    OUT_OF_FOCUS = "out of focus"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    CROWDED = "crowded"
    FEW_CELLS = "few cells"
    FAILED = "failed"


def field_reason(row: Mapping[str, Any], limits: FieldLimits) -> str | None:
    """Return the reason to look at a field, such as ``out of focus, dark``; None without one.

    Places of a slide that are empty or too thick need no person. A measure that is missing (focus
    and overlap, without cells) is not beyond a limit.
    """
    if row["failure"] is not None:
        return FieldReason.FAILED
    if row["kind"] != FieldKind.FIELD:
        return None
    beyond = {
        FieldReason.OUT_OF_FOCUS: _below(row["sharpness"], limits.least_sharpness),
        FieldReason.DARK: _below(row["brightness"], limits.least_brightness)
        or _below(limits.most_dark, row["too_dark"]),
        FieldReason.OVEREXPOSED: _below(limits.most_bright, row["too_bright"]),
        FieldReason.CROWDED: _below(limits.most_overlap, row["overlap"])
        or _below(limits.most_packed, row["packed"]),
        FieldReason.FEW_CELLS: _below(row["cells"], limits.least_cells),
    }
    return format_reasons([reason for reason, is_so in beyond.items() if is_so])


def fields_judged(
    fields: pa.Table, counts: pa.Table, limits: FieldLimits, made_by: Mapping[str, Any]
) -> pa.Table:
    """Join fields with the counts of their images, and judge them; ``made_by`` is in every row."""
    reasons = [field_reason(row, limits) for row in fields.to_pylist()]
    verdicts = [Verdict.REVIEW if reason else Verdict.ACCEPT for reason in reasons]
    columns = {name: table[name] for table in (fields, counts) for name in table.column_names}
    judged = {
        "verdict": pa.array(verdicts, pa.string()),
        "review_reason": pa.array(reasons, pa.string()),
    }
    stated = {name: pa.repeat(pa.scalar(each), len(reasons)) for name, each in made_by.items()}
    return pa.table(columns | judged | stated)


def _below(value: float | None, limit: float | None) -> bool:
    # Null and NaN are below nothing.
    return value is not None and limit is not None and value < limit
