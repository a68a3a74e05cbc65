"""Describe for the page which patients have parasites, and how many."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import asinh
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

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

# An interval is drawn on an axis that is linear below a tenth of a percent, logarithmic above.
WIDTH, HEIGHT, KNEE = 150, 18, 0.05
TICKS = (0.0, 0.1, 1.0, 10.0, 100.0)


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
        "plot": interval_plot(row) if known else "",
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


def place_of(percent: float) -> float:
    """Compute where a parasitaemia lies on the axis of an interval, from 0 to 1.

    >>> place_of(0.0), place_of(100.0)
    (0.0, 1.0)
    """
    return asinh(percent / KNEE) / asinh(100 / KNEE)


def interval_plot(row: Mapping[str, Any]) -> Markup:
    """Draw a parasitaemia with its interval, and the limit of blank as a tick, as inline SVG."""

    def x(percent: float) -> str:
        return f"{4 + (WIDTH - 8) * place_of(percent):.1f}"

    middle, (low, high) = HEIGHT / 2, (row["corrected_low"], row["corrected_high"])
    blank = row["limit_of_blank_percent"]
    caption = f"{percent_text(row['corrected_percent'])}, {range_text(low, high)}"
    caption += f"; limit of blank {percent_text(blank)}"
    grid = "".join(f"M{x(tick)} 2v{HEIGHT - 4}" for tick in TICKS)
    return Markup(
        '<svg class="range" role="img" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'aria-label="{said}"><path class="grid" d="{grid}"/>'
        '<path class="blank" d="M{blank} 3v{tall}"/>'
        '<path class="span" d="M{low} {y}H{high}"/><circle cx="{dot}" cy="{y}" r="3.2"/></svg>'
    ).format(
        w=WIDTH, h=HEIGHT, said=caption, grid=grid, blank=x(blank), tall=HEIGHT - 6, low=x(low),
        high=x(high), y=middle, dot=x(row["corrected_percent"]),
    )  # fmt: skip


def axis() -> Markup:
    """Draw the axis of all intervals, for the head of their column."""
    texts = "".join(
        f'<text x="{4 + (WIDTH - 8) * place_of(tick):.1f}" y="11" text-anchor="{anchor}">'
        f"{tick:g}</text>"
        for tick, anchor in zip(TICKS, ("start", "middle", "middle", "middle", "end"), strict=True)
    )
    return Markup(
        f'<svg class="range" aria-hidden="true" viewBox="0 0 {WIDTH} 14" width="{WIDTH}" '
        f'height="14">{texts}</svg>'
    )


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
