"""Define the reasons to look at a slide as a whole, and the table of shifts of slides."""

from enum import StrEnum

import pyarrow as pa

# The shift of slides, as scoring writes it: a row for each slide and patient.
SHIFTS = pa.schema(
    [
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("judged_cells", pa.int64()),
        ("shift", pa.float64()),
        ("shift_p_value", pa.float64()),
        ("shifted", pa.bool_()),
        ("shift_tap", pa.string()),
        ("smear_shift", pa.float64()),
        ("smear_spread", pa.float64()),
        ("implausible", pa.bool_()),
    ]
)
OF_SHIFT = tuple(
    name for name in SHIFTS.names if name not in ("slide_id", "patient_id", "judged_cells")
)


class SlideReason(StrEnum):
    """A reason to look at a slide as a whole; ``fields ...`` are further reasons."""

    IMPLAUSIBLE = "implausible"  # as a smear of blood
    SHIFTED = "shifted"
    TOGETHER = "abnormal together"
    MANY_FAILED = "many failed"
    FEW_CELLS = "few cells"
    MANY_UNCERTAIN = "many uncertain"
    SEVERAL_PATIENTS = "several patients"
    REPEATED = "repeated images"
    TOO_FEW = "too few cells for a negative call"


# Reasons that lie in the images themselves.
OF_IMAGES = frozenset(
    {SlideReason.IMPLAUSIBLE, SlideReason.SHIFTED, SlideReason.TOGETHER, SlideReason.MANY_UNCERTAIN}
)
