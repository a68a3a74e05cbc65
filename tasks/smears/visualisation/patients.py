"""Describe the likeliest parasites of patients, whether they count or not.

The page of a batch shows them, and so does the sheet of one patient: a page to print, and the same
figures for a spreadsheet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.reports import spreadsheet
from tasks.smears.answers.patients import Confirmation
from tasks.smears.counting.call import Call
from tasks.smears.reports import called_cells
from tasks.smears.visualisation import calls, page

# Patients of these calls have their cells shown, if any look parasitized.
OPENED = (Call.POSITIVE, Call.SUSPECTED, Call.INDETERMINATE, Call.UNREADABLE)
PATIENTS_OPENED = 16
CELLS_SHOWN = 96  # of all patients: with them a page stays below 5 MB
LEAST, MOST = 6, 10  # cells of a patient


@dataclass(frozen=True)
class Called:
    """Hold the cells behind the calls of some patients, rows of the image report by patient.

    ``places`` are pictures of cells in their fields by address, WebP files, or why there is none;
    a cell that is a file of its own has none.
    """

    cells: Mapping[called_cells.Patient, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    places: Mapping[str, bytes | str] = field(default_factory=dict)


def opened(rows: pa.Table) -> list[dict[str, Any]]:
    """Choose the patients whose cells are shown, given their report in order."""
    if len(rows) > 1:
        calls = rows["call"].cast(pa.string())
        rows = rows.filter(pc.is_in(calls, value_set=pa.array(OPENED, pa.string())))
    shown: list[dict[str, Any]] = (
        rows.filter(pc.greater(rows["parasitized"], 0)).slice(0, PATIENTS_OPENED).to_pylist()
    )
    return shown


def cells_each(patients: int) -> int:
    """Compute how many cells are shown of each of some patients.

    >>> [cells_each(patients) for patients in (1, 12, 16)]
    [10, 8, 6]
    """
    return min(MOST, max(LEAST, CELLS_SHOWN // max(1, patients)))


CELLS, SLIDES = 6, 8  # on a sheet, which is one page of paper
FIGURES = (
    "call", "call_reasons", "cells_read", "cells_called", "corrected_percent", "corrected_low",
    "corrected_high", "parasites_per_microlitre", "none_above_percent",
)  # fmt: skip


def patient_sheet(
    patient: Mapping[str, Any],
    slides: Sequence[Mapping[str, Any]],
    cells: Sequence[Mapping[str, Any]],
    places: Mapping[str, bytes | str],
    thumbnails: Mapping[str, bytes | str],
    persons: Confirmation | None,
) -> str:
    """Make the sheet, HTML, which prints on one page.

    ``cells`` are rows of the image report with ``chance`` and ``called``, the most probable first.
    Pictures in fields and thumbnails are by address, with the reason where one is missing.
    """
    return page.render(
        "patient.html",
        title=calls.patient_name(patient),
        day=page.day_text(patient["batch_date"]),
        answer=calls.call_of(patient),
        persons=persons,
        cells=cells[:CELLS],
        thumbnails=thumbnails,
        places=places,
        slides=[calls.call_of(row) for row in slides],
        most=SLIDES,
    )


def patient_table(
    patient: Mapping[str, Any],
    slides: Sequence[Mapping[str, Any]],
    persons: Confirmation | None,
) -> str:
    """Make the same figures as CSV: a line for the patient, and one for each slide."""
    columns = ("of", "name", "batch", "batch_date", *FIGURES, "persons", "persons_call")
    rows = [
        [
            kind,
            name,
            *(row[column] for column in ("batch", "batch_date")),
            *(row.get(column) for column in FIGURES),
            *([persons.answer, persons.call] if persons and kind == "patient" else [None, None]),
        ]
        for kind, name, row in [
            ("patient", calls.patient_name(patient), patient),
            *(("slide", row["slide_id"], row) for row in slides),
        ]
    ]
    return "".join(spreadsheet.csv_lines(columns, rows))
