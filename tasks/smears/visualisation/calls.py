"""Describe for pages which patients have parasites, how many, and the likeliest ones.

The page of a batch shows them, and so does the sheet of one patient, a page to print.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.smears.answers.patients import DECIDED, Confirmation, PatientAnswer
from tasks.smears.counting.call import (
    Call,
    call_text,
    density_text,
    percent_text,
    range_text,
    suspects_text,
)
from tasks.smears.reports.called_cells import Patient, patient_of
from tasks.smears.reports.parasitaemia import density_text as class_text
from tasks.smears.visualisation import page

WORDS = {
    Call.POSITIVE: "patients with parasites",
    Call.SUSPECTED: "patients whose likeliest parasites a person must see",
    Call.NEGATIVE: "patients with none above the stated limit",
    Call.INDETERMINATE: "patients whose cells do not decide",
    Call.UNREADABLE: "patients whose slides cannot be used",
}
# Patients of these calls have their cells shown, if any look parasitized.
OPENED = (Call.POSITIVE, Call.SUSPECTED, Call.INDETERMINATE, Call.UNREADABLE)
PATIENTS_OPENED = 16
CELLS_SHOWN = 96  # of all patients: with them a page stays below 5 MB
LEAST, MOST = 6, 10  # cells of a patient
CELLS, SLIDES = 6, 8  # on a sheet, which is one page of paper


def positive_first(patients: pa.Table) -> pa.Table:
    """Sort the report on patients: the positive ones with the most parasites first.

    Patients without a parasitaemia are in the order of the cells that look parasitized.
    """
    names = {name: patients[name].cast(pa.string()) for name in ("call", "patient_id", "slide_id")}
    keys = {
        "call": pc.index_in(names["call"], value_set=pa.array(list(WORDS), pa.string())),
        "parasites": pc.negate(pc.fill_null(patients["corrected_percent"], 0.0)),
        "look": pc.negate(patients["parasitized"]),
        "patient": pc.fill_null(names["patient_id"], ""),
        "slide": pc.fill_null(names["slide_id"], ""),
    }
    order = [(name, "ascending") for name in keys]
    return patients.take(pc.sort_indices(pa.table(keys), order))


def described(row: Mapping[str, Any], answers: Mapping[Patient, Confirmation]) -> dict[str, Any]:
    """Describe a row of the report on patients for the page, with the persons' answer."""
    persons = answers.get(key := patient_of(row))
    return call_of(row, persons) | {"key": key, "name": patient_name(row), "persons": persons}


def patient_name(row: Mapping[str, Any]) -> str:
    """Name the patient of a row of the report on patients."""
    if row["patient_id"] is not None:
        return page.shortened(row["patient_id"])
    slide = row["slide_id"]
    return "no patient named" if slide is None else f"slide {page.shortened(slide)}"


def call_of(row: Mapping[str, Any], persons: Confirmation | None = None) -> dict[str, Any]:
    """Add to a slide's or patient's row what a page says of its call, which ``persons`` decide."""
    known = row["corrected_percent"] is not None
    kind, suspects = row["density_class"], suspects_text(row)
    waits = row["call"] != Call.SUSPECTED or persons is None or persons.answer not in DECIDED
    return {
        **row,
        "sentence": call_text(row) if waits else suspects,
        # The meaning of the parasitaemia of a positive one, such as hyperparasitaemia.
        "meaning": class_text(kind) if kind is not None and row["call"] == Call.POSITIVE else None,
        **(_amounts(row) if known else {"corrected": "–", "range": "", "density": "–"}),
        "suspects": suspects,
        "order": row["corrected_percent"] if known else -1.0,
    }


def _amounts(row: Mapping[str, Any]) -> dict[str, str]:
    """Write a parasitaemia and its density; for a negative patient, their upper bounds.

    An estimate next to the word "negative" would be read as parasites that were seen.
    """
    most, high = row["none_above_percent"], row["corrected_high"]
    if row["call"] == Call.NEGATIVE and most is not None and high:
        density = row["parasites_per_microlitre_high"] * most / high
        return {
            "corrected": f"≤ {percent_text(most)}",
            "range": "",
            "density": f"≤ {density_text(density)}",
        }
    return {
        "corrected": percent_text(row["corrected_percent"]),
        "range": range_text(row["corrected_low"], row["corrected_high"]),
        "density": density_text(row["parasites_per_microlitre"]),
    }


def confirmed_text(answers: Iterable[Confirmation]) -> str | None:
    """Count patients by what persons answer on them; None where nobody has answered.

    >>> is_open = Confirmation(PatientAnswer.OPEN, 3, 0)
    >>> confirmed_text([Confirmation(PatientAnswer.CONFIRMED, 5, 2), is_open])
    '1 confirmed, 1 open'
    """
    counts = Counter(each.answer for each in answers)
    return ", ".join(f"{counts[each]:,} {each}" for each in PatientAnswer if counts[each]) or None


@dataclass(frozen=True)
class Called:
    """Hold the cells behind the calls of some patients, rows of the image report by patient.

    ``places`` are pictures of cells in their fields by address, WebP files, or why there is none;
    a cell that is a file of its own has none.
    """

    cells: Mapping[Patient, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    places: Mapping[str, bytes | str] = field(default_factory=dict)


def opened(rows: pa.Table) -> list[dict[str, Any]]:
    """Choose the patients whose cells are shown, given their report in order."""
    if len(rows) > 1:
        called = rows["call"].cast(pa.string())
        rows = rows.filter(pc.is_in(called, value_set=pa.array(OPENED, pa.string())))
    looks = rows.filter(pc.greater(rows["parasitized"], 0))
    return list(looks.slice(0, PATIENTS_OPENED).to_pylist())


def cells_each(patients: int) -> int:
    """Compute how many cells are shown of each of some patients.

    >>> [cells_each(patients) for patients in (1, 12, 16)]
    [10, 8, 6]
    """
    return min(MOST, max(LEAST, CELLS_SHOWN // max(1, patients)))


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
        title=patient_name(patient),
        day=page.day_text(patient["batch_date"]),
        answer=call_of(patient, persons),
        persons=persons,
        cells=cells[:CELLS],
        thumbnails=thumbnails,
        places=places,
        slides=[call_of(row) for row in slides],
        most=SLIDES,
    )
