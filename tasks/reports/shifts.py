"""Define the table of shifts, which scoring writes: a row for each slide and patient."""

import pyarrow as pa

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
