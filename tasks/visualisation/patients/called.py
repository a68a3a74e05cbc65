"""Describe for the page the cells behind each positive or indeterminate patient's call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.answers.patients import Confirmation
from tasks.counting.call import Call
from tasks.reports.called_cells import Patient, patient_of
from tasks.visualisation.page import (
    LONGEST_TEXT,
    data_uri,
    file_name,
    number_text,
    p_text,
    shortened,
)
from tasks.visualisation.patients.calls import call_of, patient_name
from tasks.visualisation.patients.persons import persons_answer

OPENED = (Call.POSITIVE, Call.INDETERMINATE)  # patients of these calls have their cells shown
PATIENTS_OPENED = 32
CELLS_SHOWN = 96  # of all patients: with them a page stays below 5 MB
LEAST, MOST = 3, 12  # cells of a patient; the least is shown of one with fewer called, too


@dataclass(frozen=True)
class Called:
    """Hold the cells behind the calls of some patients, rows of the image report by patient.

    ``places`` are pictures of cells in their fields by address, WebP files, or why there is none;
    a cell that is a file of its own has none.
    """

    cells: Mapping[Patient, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    places: Mapping[str, bytes | str] = field(default_factory=dict)


def opened(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose the patients whose cells are shown, given rows of their report in order."""
    return [row for row in rows if row["call"] in OPENED][:PATIENTS_OPENED]


def cells_each(patients: int) -> int:
    """Compute how many cells are shown of each of some patients.

    >>> [cells_each(patients) for patients in (1, 8, 20, 32)]
    [12, 12, 4, 3]
    """
    return min(MOST, max(LEAST, CELLS_SHOWN // max(1, patients)))


def opened_patients(
    rows: Sequence[Mapping[str, Any]],
    called: Called,
    thumbnails: Mapping[str, bytes | str],
    answers: Mapping[Patient, Confirmation],
) -> list[dict[str, Any]]:
    """Describe for the page the patients whose cells are shown, each with cells and answer."""
    return [
        {
            "id": place_of(number),
            "name": patient_name(row),
            **call_of(row),
            "persons": persons_answer(answers.get(patient_of(row))),
            "cells": [
                describe_cell(cell, called.places.get(cell["uri"]), thumbnails.get(cell["uri"]))
                for cell in called.cells.get(patient_of(row), ())
            ],
        }
        for number, row in enumerate(opened(rows))
    ]


def place_of(number: int) -> str:
    """Name the place on the page of a patient, counted among those whose cells are shown."""
    return f"patient-{number}"


def describe_cell(
    row: Mapping[str, Any], place: bytes | str | None, thumbnail: bytes | str | None
) -> dict[str, Any]:
    """Describe one of a patient's cells for a page: its figures, its picture, and its place."""
    return {
        "name": file_name(row["uri"]),
        "uri": shortened(row["uri"], 2 * LONGEST_TEXT),
        "id": row["image_id"],
        "slide": shortened(row["slide_id"]) if row["slide_id"] is not None else None,
        "chance": chance_text(row["chance"]),
        "called": row["called"],
        "abnormality": number_text(row["abnormality"]),
        "p_value": p_text(row["p_value"]),
        **describe_thumbnail(thumbnail),
        "place": data_uri(place, "webp") if isinstance(place, bytes) else None,
        "no_place": place if isinstance(place, str) else None,
    }


def describe_thumbnail(thumbnail: bytes | str | None) -> dict[str, str | None]:
    """Describe the picture of a cell, a WebP file, or why there is none."""
    if isinstance(thumbnail, bytes):
        return {"thumbnail": data_uri(thumbnail, "webp"), "missing": None}
    return {"thumbnail": None, "missing": thumbnail or "no picture was made"}


def chance_text(chance: float) -> str:
    """Write a probability in percent, never as certain.

    >>> [chance_text(value) for value in (0.99999, 0.987, 0.5)]
    ['> 99.9%', '98.7%', '50%']
    """
    if chance >= 0.9995:
        return "> 99.9%"
    return f"{chance:.1%}" if chance >= 0.9 else f"{chance:.0%}"
