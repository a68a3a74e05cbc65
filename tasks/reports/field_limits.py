"""Which fields of view are fit to be read, by limits on what `tasks.segmentation.quality` measures.

Cells of a field beyond a limit are read all the same, and its slide goes to a person, with the
reason; of a slide with hundreds of fields a few may be so.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.detector.verdict import format_reasons
from tasks.types import FieldKind


class FieldReason(StrEnum):
    """Name why a person looks at a field of view."""

    OUT_OF_FOCUS = "out of focus"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    CROWDED = "crowded"
    FEW_CELLS = "few cells"
    FAILED = "failed"


TOLERATED = 0.02  # see `FieldLimits`


class FieldLimits(BaseModel):
    """Limits of a field's quality; the defaults were set on the BCCD fields (see each)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Of 120 fields one is below; of 40 behind a blur of five pixels, 39.
    least_sharpness: float = Field(
        0.004, ge=0, description="variance of the Laplacian over that of brightness"
    )
    # Those fields have .69 to .75, and .17 to .19 with a quarter of the light. It is low,
    # for the black round an eyepiece's view darkens a photograph that shows it.
    least_brightness: float = Field(
        0.25, ge=0, le=1, description="mean of all channels, 0 to 1, below which a field is dark"
    )
    # For the same reason.
    most_dark: float = Field(
        0.5, ge=0, le=1, description="share of a field's pixels where a channel is black"
    )
    # At most .0004 of those fields, more than .99 with 1.6 times the light. Scanners may clip the
    # background alone, so some of it is no harm.
    most_bright: float = Field(
        0.5, ge=0, le=1, description="share of a field's pixels where a channel is white"
    )
    # Those fields have .12 at most.
    most_overlap: float = Field(
        0.25, ge=0, le=1, description="share of what cells cover that lies in more than one"
    )
    # 0 in all of those fields; a half and more in rendered fields that are thick in places.
    most_packed: float = Field(
        0.25, ge=0, le=1, description="share of a field where hardly any ground is seen"
    )
    least_cells: int = Field(1, ge=0, description="cells of a field that is not empty")
    # One of those fields, .008 of them, is beyond a limit: a slide of hundreds would always be.
    tolerated: float = Field(
        TOLERATED, ge=0, le=1, description="share of a slide's fields that may be beyond a limit"
    )


def field_reason(row: Mapping[str, Any], limits: FieldLimits) -> str | None:
    """Why a person should look at a field, such as ``out of focus, dark``; None: no need to.

    Places of a slide that are empty or too thick to be read need nobody. What could not be
    measured (focus and overlap, where there are no cells) is not beyond a limit.

    Args:
        row: of the report on fields, by column.
        limits: what a field must keep.
    """
    if row["failure"] is not None:
        return FieldReason.FAILED
    if row["kind"] != FieldKind.FIELD:
        return None
    found = {
        FieldReason.OUT_OF_FOCUS: _below(row["sharpness"], limits.least_sharpness),
        FieldReason.DARK: _below(row["brightness"], limits.least_brightness)
        or _below(limits.most_dark, row["too_dark"]),
        FieldReason.OVEREXPOSED: _below(limits.most_bright, row["too_bright"]),
        FieldReason.CROWDED: _below(limits.most_overlap, row["overlap"])
        or _below(limits.most_packed, row["packed"]),
        FieldReason.FEW_CELLS: _below(row["cells"], limits.least_cells),
    }
    return format_reasons([reason for reason, is_so in found.items() if is_so])


def _below(value: float | None, limit: float | None) -> bool:
    # Neither null nor NaN is known to be below anything.
    return value is not None and limit is not None and value < limit
