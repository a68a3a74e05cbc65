"""Decide whether a person should look at a field, or at a slide as a whole.

Cells of a field beyond a limit are read all the same, but its slide goes to a person with the
reason. A few of a slide's hundreds of fields may be beyond a limit.
"""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pyarrow as pa

from tasks.detector.verdict import format_reasons, is_turning, parse_reasons
from tasks.limits import FieldLimits
from tasks.smears.reports.parasitaemia import cells_needed
from tasks.types import FieldKind, Verdict

# About one slide in a thousand exceeds this if its patient is like the calibration patients: the
# rate of abnormal cells varies between patients by about the rate itself
# (tests/benchmarks/README.md).
ABNORMAL_TOGETHER = 0.25
# Cells of a slide resemble each other: if five of them count as one independent cell, this is a
# chance of about one in fifty.
ABNORMAL_P_VALUE = 1e-6
# A tenth of the cells missing can move the count of a slide by more than its interval says.
MANY_FAILED = 0.1
# With fewer cells, even all abnormal ones could be chance at an alpha of .05. A field of view shows
# a dozen, so a higher limit would flag every field; the interval shows the uncertainty.
FEW_CELLS = 5
# A few in a hundred cells are below the least probability if images are as in training.
MANY_UNCERTAIN = 0.25


class SlideReason(StrEnum):
    """A reason to look at a slide as a whole; ``fields ...`` are further reasons."""

    IMPLAUSIBLE = "implausible"  # as a smear of blood
    TURNING = "diagnoses turn when blurred"
    SHIFTED = "shifted"  # further away than any fitted slide
    TOGETHER = "abnormal together"
    MANY_FAILED = "many failed"
    FEW_CELLS = "few cells"
    MANY_UNCERTAIN = "many uncertain"
    SEVERAL_PATIENTS = "several patients"
    REPEATED = "repeated images"
    TOO_FEW = "too few cells for a negative call"


# A slide with one of these cannot be a smear of blood as a microscope shows it.
NO_SMEAR = frozenset({SlideReason.IMPLAUSIBLE, SlideReason.TURNING})
# Reasons that lie in the images themselves.
OF_IMAGES = NO_SMEAR | {SlideReason.SHIFTED, SlideReason.TOGETHER, SlideReason.MANY_UNCERTAIN}


def slide_reasons(
    row: Mapping[str, Any], alpha: float, *, detectable: float, tolerated: float
) -> list[str]:
    """List the reasons for a person to look at a slide, from its counts.

    Its ``abnormal_p_value`` assumes independent cells, but cells of one slide depend on each other,
    so it is too small: only a strict level together with a gross excess makes a slide ``abnormal
    together``. A slide with fields and no parasites must have enough red cells to show the
    ``detectable`` parasitaemia, in percent. ``tolerated`` is the share of its fields that may be
    beyond a limit, or have failed; empty and thick fields do not count.
    """
    cells, scored, abnormal = row["cells"], row["scored"], row["abnormal"]
    surprise = row["abnormal_p_value"]
    few_for_none = not row["parasitized"] and row["red_cells"] < cells_needed(detectable)
    judged = {
        SlideReason.IMPLAUSIBLE: row["implausible"],
        SlideReason.TURNING: is_turning(row["turned"], row["looked_at"]),
        SlideReason.SHIFTED: row["shifted"],
        SlideReason.TOGETHER: surprise is not None
        and surprise <= ABNORMAL_P_VALUE
        and abnormal >= max(ABNORMAL_TOGETHER, alpha) * scored,
        SlideReason.MANY_FAILED: cells > 0 and cells - scored >= MANY_FAILED * cells,
        SlideReason.FEW_CELLS: scored < FEW_CELLS,
        SlideReason.MANY_UNCERTAIN: row["uncertain"]
        and row["uncertain"] >= MANY_UNCERTAIN * scored,
        SlideReason.SEVERAL_PATIENTS: row["several_patients"],
        # The slide has fewer cells than it seems to have.
        SlideReason.REPEATED: row["repeated"],
        SlideReason.TOO_FEW: row["fields"] and few_for_none,
    }
    reasons: list[str] = [reason for reason, is_so in judged.items() if is_so]
    fields = Counter(each for text in row["field_reasons"] or () for each in parse_reasons(text))
    few = tolerated * ((row["fields_read"] or 0) + fields[FieldReason.FAILED])
    return reasons + [f"fields {each}" for each, n in sorted(fields.items()) if n > few]


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
