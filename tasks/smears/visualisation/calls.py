"""Describe for the page which patients have parasites, and how many."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.smears.answers.patients import Answer, Confirmation
from tasks.smears.counting.call import (
    Call,
    call_text,
    density_text,
    percent_text,
    range_text,
    suspects_text,
)
from tasks.smears.reports.called_cells import Patient, patient_of
from tasks.smears.reports.night.counts import Row
from tasks.smears.reports.parasitaemia import density_text as class_text
from tasks.smears.visualisation.page import shortened
from tasks.words import counted

WORDS = {
    Call.POSITIVE: "patients with parasites",
    Call.SUSPECTED: "patients whose likeliest parasites a person must see",
    Call.NEGATIVE: "patients with none above the stated limit",
    Call.INDETERMINATE: "patients whose cells do not decide",
    Call.UNREADABLE: "patients whose slides cannot be used",
}
DOUBTS = {
    "shifted": "Which errors to expect is not known: at least a tenth of the cells are from slides "
    "unlike every known slide, where probabilities are not calibrated.",
    "other laboratory": "Which errors to expect is not known: probabilities were calibrated on "
    "cells of other laboratories.",
}


def calls_of(patients: pa.Table) -> list[tuple[str, str, str]]:
    """List call, number of patients and what it means, for each call."""
    counts = Counter(patients["call"].to_pylist())
    return [(call, f"{counts[call]:,}", words) for call, words in WORDS.items()]


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
    key = patient_of(row)
    return call_of(row) | {"key": key, "name": patient_name(row), "persons": answers.get(key)}


def patient_name(row: Mapping[str, Any]) -> str:
    """Name the patient of a row of the report on patients."""
    if row["patient_id"] is not None:
        return shortened(row["patient_id"])
    return "no patient named" if row["slide_id"] is None else f"slide {shortened(row['slide_id'])}"


def call_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a slide's or patient's row what a page says of its call."""
    known = row["corrected_percent"] is not None
    kind = row["density_class"]
    return {
        **row,
        "sentence": call_text(row),
        # The meaning of the parasitaemia of a positive one, such as hyperparasitaemia.
        "meaning": class_text(kind) if kind is not None and row["call"] == Call.POSITIVE else None,
        **(_amounts(row) if known else {"corrected": "–", "range": "", "density": "–"}),
        "suspects": suspects_text(row),
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


def expected_text(night: Row) -> str | None:
    """Write which errors to expect, or why that cannot be known; None without diagnoses."""
    wrong, missed = night["expected_false_calls"], night["expected_missed"]
    if night["expected_accuracy"] is None:
        return None
    if (doubt := night["expected_doubt"]) is not None:
        return DOUBTS.get(doubt, doubt)
    sentence = (
        f"Errors to expect (no cell here has a label): about {counted(round(wrong), 'cell')} "
        f"wrongly diagnosed as parasitized and {round(missed):,} parasitized missed; accuracy "
        f"{_share(night, 'accuracy')}"
    )
    if night["expected_sensitivity"] is not None:
        sentence += f", sensitivity {_share(night, 'sensitivity')}"
    return f"{sentence}."


def _share(night: Row, name: str) -> str:
    value, low, high = (night[f"expected_{name}{bound}"] for bound in ("", "_low", "_high"))
    return f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f}%)"


def places_of_slides(slides: Sequence[Mapping[str, Any]]) -> dict[Patient, str]:
    """Name the first row on the page of each patient's slides, and of each slide without one."""
    places: dict[Patient, str] = {}
    for number, slide in enumerate(slides):
        places.setdefault(patient_of(slide), f"slide-{number}")
    return places


def confirmed_text(answers: Iterable[Confirmation]) -> str | None:
    """Count patients by what persons answer on them; None where nobody has answered.

    >>> confirmed_text([Confirmation(Answer.CONFIRMED, 5, 2), Confirmation(Answer.OPEN, 3, 0)])
    '1 confirmed, 1 open'
    """
    counts = Counter(each.answer for each in answers)
    return ", ".join(f"{counts[each]:,} {each}" for each in Answer if counts[each]) or None
