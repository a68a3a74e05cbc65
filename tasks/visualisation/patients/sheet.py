"""Make the sheet of one patient: a page to print, and the same figures for a spreadsheet."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reports.spreadsheet import csv_lines
from tasks.visualisation.page import day_text, render, shortened
from tasks.visualisation.patients.called import describe_cell
from tasks.visualisation.patients.calls import call_of, patient_name

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
    persons: Mapping[str, Any] | None,
) -> str:
    """Make the sheet, HTML, which prints on one page.

    ``cells`` are rows of the image report with ``chance`` and ``called``, the most probable first.
    Pictures in fields and thumbnails are by address, with the reason where one is missing;
    ``persons`` is `persons_answer`.
    """
    shown = slides[:SLIDES]
    return render(
        "patient.html",
        title=patient_name(patient),
        batch=patient["batch"],
        day=day_text(patient["batch_date"]),
        answer=call_of(patient),
        persons=persons,
        cells=[
            describe_cell(cell, places.get(cell["uri"]), thumbnails.get(cell["uri"]))
            for cell in cells[:CELLS]
        ],
        slides=[
            call_of(row) | {"name": shortened(row["slide_id"] or "no slide named")} for row in shown
        ],
        more=len(slides) - len(shown),
        made_by=f"model {patient['model']}, detector {patient['detector']}",
    )


def patient_table(
    patient: Mapping[str, Any],
    slides: Sequence[Mapping[str, Any]],
    persons: Mapping[str, Any] | None,
) -> str:
    """Make the same figures as CSV: a line for the patient, and one for each slide."""
    said = persons or {}
    columns = ("of", "name", "batch", "batch_date", *FIGURES, "persons", "persons_call")
    rows = [
        [
            of,
            name,
            *(row[column] for column in ("batch", "batch_date")),
            *(row.get(column) for column in FIGURES),
            said.get("answer") if of == "patient" else None,
            said.get("call") if of == "patient" else None,
        ]
        for of, name, row in [
            ("patient", patient_name(patient), patient),
            *(("slide", row["slide_id"], row) for row in slides),
        ]
    ]
    return "".join(csv_lines(columns, rows))
