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


def opened_patients(
    rows: pa.Table,
    called: Called,
    thumbnails: Mapping[str, bytes | str],
    answers: Mapping[called_cells.Patient, Confirmation],
) -> list[dict[str, Any]]:
    """Describe for the page the patients whose cells are shown, each with cells and answer."""
    return [
        {
            "id": place_of(number),
            "name": calls.patient_name(row),
            **calls.call_of(row),
            "persons": answers.get(called_cells.patient_of(row)),
            "cells": [
                describe_cell(cell, called.places, thumbnails)
                for cell in called.cells.get(called_cells.patient_of(row), ())
            ],
        }
        for number, row in enumerate(opened(rows))
    ]


def place_of(number: int) -> str:
    """Name the place on the page of a patient, counted among those whose cells are shown."""
    return f"patient-{number}"


def describe_cell(
    row: Mapping[str, Any], places: Mapping[str, bytes | str], thumbnails: Mapping[str, bytes | str]
) -> dict[str, Any]:
    """Describe one of a patient's cells for a page: its figures, its picture, and its place."""
    place = places.get(row["uri"])
    return describe_image(row, thumbnails.get(row["uri"])) | {
        "id": row["image_id"],
        "chance": chance_text(row["chance"]),
        "called": row["called"],
        "aside": row["aside"],
        "place": page.data_uri(place, "webp") if isinstance(place, bytes) else None,
        "no_place": place if isinstance(place, str) else None,
    }


def describe_image(row: Mapping[str, Any], thumbnail: bytes | str | None) -> dict[str, Any]:
    """Describe an image for a page, with its picture, a WebP file, or why there is none."""
    return {
        "name": page.file_name(row["uri"]),
        "uri": page.shortened(row["uri"], 2 * page.LONGEST_TEXT),
        "slide": page.shortened(row["slide_id"]) if row["slide_id"] is not None else None,
        "abnormality": page.number_text(row["abnormality"]),
        "p_value": page.p_text(row["p_value"]),
        "thumbnail": page.data_uri(thumbnail, "webp") if isinstance(thumbnail, bytes) else None,
        "missing": None if isinstance(thumbnail, bytes) else thumbnail or "no picture was made",
    }


def chance_text(chance: float) -> str:
    """Write a probability in percent, never as certain.

    >>> [chance_text(value) for value in (0.99999, 0.987, 0.5)]
    ['> 99.9%', '98.7%', '50%']
    """
    if chance >= 0.9995:
        return "> 99.9%"
    return f"{chance:.1%}" if chance >= 0.9 else f"{chance:.0%}"


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
    shown = slides[:SLIDES]
    return page.render(
        "patient.html",
        title=calls.patient_name(patient),
        batch=patient["batch"],
        day=page.day_text(patient["batch_date"]),
        answer=calls.call_of(patient),
        persons=persons,
        cells=[describe_cell(cell, places, thumbnails) for cell in cells[:CELLS]],
        slides=[
            calls.call_of(row) | {"name": page.shortened(row["slide_id"] or "no slide named")}
            for row in shown
        ],
        more=len(slides) - len(shown),
        made_by=f"model {patient['model']}, detector {patient['detector']}",
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
