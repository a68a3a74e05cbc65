"""Make the page of a batch, which a person reads in the morning: one file that needs no other."""

import base64
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from tasks import types
from tasks.reports import image_columns
from tasks.smears.answers.patients import Confirmation
from tasks.smears.counting.call import needs_text, photograph_text
from tasks.smears.reports.called_cells import Patient, patient_of
from tasks.smears.reports.night.counts import Row
from tasks.smears.reports.slide_reasons import SlideReason
from tasks.smears.visualisation import calls, index_page, overlay, page
from tasks.smears.visualisation.highlights import (
    ABNORMAL,
    MOST_OF_A_SLIDE,
    PERSON,
    SAMPLE,
    UNCERTAIN,
    Highlights,
)
from tasks.smears.visualisation.overlay import COLOURS as CONTOURS
from tasks.smears.visualisation.patients import (
    Called,
    describe_cell,
    describe_image,
    opened,
    opened_patients,
    place_of,
)
from tasks.smears.visualisation.viewer.overlays import ShownField, describe_field
from tasks.words import counted, verb

SLIDES_SHOWN = 500
ODD_SHOWN = 20  # slides of each kind to look at as a whole
# Columns by which slides are sorted.
DECIDING = ("verdict", "review_reasons", "shift", "abnormal_p_value", "slide_id")
NIGHTS_SHOWN = 14

LIGHTS = {
    types.Light.GREEN: "Green: the quality of these pictures is as usual",
    types.Light.AMBER: "Amber: something about these pictures or patients needs a look",
    types.Light.RED: "Red: look at the pictures before you use any result",
}
# Heading, words, and whether the sheet is folded: sheets that say nothing about a patient are last.
SHEETS = {
    PERSON: (
        "Cells that a person should see",
        "Unlike the other cells of their slide, so they are left out of every count. The most "
        f"probable parasites come first, at most {MOST_OF_A_SLIDE} from one slide while other "
        "slides can fill the sheet.",
        False,
    ),
    UNCERTAIN: (
        "Least certain cells",
        f"Cells whose diagnosis is least probable, at most {MOST_OF_A_SLIDE} from one slide.",
        False,
    ),
    ABNORMAL: (
        "Most abnormal cells: noise and rubbish",
        "Furthest from the other cells of their slide: dirt, broken cells and the like. Do not "
        f"trust their diagnoses unseen. At most {MOST_OF_A_SLIDE} are from one slide.",
        True,
    ),
    SAMPLE: ("A random sample", "What the batch looks like: cells drawn at random.", True),
}


@dataclass(frozen=True)
class BatchView:
    """Hold everything that a batch's page is made from.

    ``row`` is the summary of the batch, ``earlier`` those of nights before, oldest first;
    ``slides`` is the report on slides; ``thumbnails`` are by address of the image; ``made_by`` are
    facts by name; ``made_from`` identifies the reports; ``fields`` and ``whole_slides`` are those
    to show of a batch whose cells were cut out of them; ``patients`` is the report on patients;
    ``called`` are the cells behind their calls; ``answers`` are those of persons on patients, and
    ``answered`` identifies all readings, None without any.
    """

    row: Row
    earlier: Sequence[Row]
    slides: pa.Table
    patients: pa.Table
    highlights: Highlights
    thumbnails: Mapping[str, bytes | str]
    classes: Sequence[str]
    threshold: float
    made_by: Mapping[str, str]
    command: str
    made_from: str
    fields: Sequence[ShownField] = ()
    whole_slides: Sequence[overlay.ShownSlide] = ()
    called: Called = field(default_factory=Called)
    answers: Mapping[Patient, Confirmation] = field(default_factory=dict)
    answered: str | None = None


def batch_page(view: BatchView) -> str:
    """Make the page, HTML; the same night gives the same text.

    A batch of one photograph shows the photograph, a sentence, and its likeliest parasites.
    """
    row, fields = view.row, _fields(view)
    if len(view.fields) == len(view.patients) == 1 and not view.whole_slides:
        return _photograph_page(view, fields[0])
    scripts = _scripts(fields)
    slides = _sorted(view.slides)
    describe = partial(_slide_rows, {each["slide_key"]: each["id"] for each in fields[::-1]})
    odd = odd_slides(slides["review_reasons"].to_pylist())
    patients = calls.positive_first(view.patients)
    shown = _rows(slides, range(min(SLIDES_SHOWN, slides.num_rows)))
    places = calls.places_of_slides(shown)
    places |= {patient_of(each): place_of(number) for number, each in enumerate(opened(patients))}
    return page.render(
        "batch.html",
        title=f"{row['batch']}: {row['light']}",
        row=row,
        made_from=view.made_from,
        answered=view.answered,
        confirmed=calls.confirmed_text(view.answers.values()),
        day=page.day_text(row["batch_date"]),
        light=LIGHTS[types.Light(row["light"])],
        needs=needs_text(Counter(view.patients["call"].to_pylist())),
        facts=_facts(row),
        **{kind: describe(_rows(slides, numbers[:ODD_SHOWN])) for kind, numbers in odd.items()},
        **{f"more_{kind}": max(0, len(numbers) - ODD_SHOWN) for kind, numbers in odd.items()},
        classes=view.classes,
        sheets=[(name, *texts, _cells(view, name)) for name, texts in SHEETS.items()],
        fields=fields,
        calls=calls.calls_of(view.patients),
        patients=calls.patient_rows(patients, places, view.answers),
        all_patients=len(patients),
        opened=opened_patients(patients, view.called, view.thumbnails, view.answers),
        axis=calls.axis(),
        expected=calls.expected_text(row),
        whole_slides=[overlay.describe_slide(each) for each in view.whole_slides],
        counted_fields=overlay.counted_fields(view.slides),
        contours=list(CONTOURS),
        viewer_style=Markup(page.VIEWER.joinpath("viewer.css").read_text()) if fields else "",
        threshold=page.number_text(view.threshold),
        slides=describe(shown),
        all_slides=slides.num_rows,
        charts=_charts(view),
        nights=_nights(view),
        failures=_failures(view),
        made_by=view.made_by,
        command=view.command,
        scripts=[Markup(script) for script in scripts],
        script_hashes=[
            base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts
        ],
    )


def _photograph_page(view: BatchView, field: Mapping[str, Any]) -> str:
    """Make the page of a batch that is one photograph."""
    (patient,) = view.patients.to_pylist()
    cells = view.called.cells.get(patient_of(patient), ())
    return page.render(
        "photograph.html",
        title=field["name"],
        row=view.row,
        made_from=view.made_from,
        sentence=photograph_text(view.row, patient),
        field=field,
        cells=[describe_cell(each, view.called.places, view.thumbnails) for each in cells],
        viewer_style=Markup(page.VIEWER.joinpath("viewer.css").read_text()),
        made_by=view.made_by,
    )


def _scripts(fields: Sequence[Mapping[str, Any]]) -> list[str]:
    """Read the page's scripts; the viewer's are there where it has a field to show."""
    script = (page.TEMPLATES / "batch.js").read_text()
    if not any(field["picture"] for field in fields):
        return [script]
    viewer = (page.VIEWER / name for name in ("openseadragon.min.js", "viewer.js"))
    return [*(path.read_text() for path in viewer), script]


def _facts(row: Row) -> list[tuple[str, str, str]]:
    """List name, figure and the text under it of each headline fact."""
    scored = row["scored"]
    return [
        ("Images", f"{row['images']:,}", f"{scored:,} scored"),
        (
            "Abnormal",
            page.percent(row["abnormal"], scored),
            f"{counted(row['abnormal'], 'cell')}; {row['alpha']:.0%} expected",
        ),
        ("Uncertain", page.percent(row["uncertain"], scored), counted(row["uncertain"], "cell")),
        (
            "Failed",
            f"{row['images'] - scored:,}",
            page.percent(row["images"] - scored, row["images"]) + " of the images",
        ),
        (
            "For review",
            f"{row['review']:,}",
            f"{verb(row['review'], 'cell', 'cells')}, and {row['slides_for_review']:,} of "
            f"{counted(row['slides'], 'slide')}",
        ),
    ]


def _cells(view: BatchView, sheet: str) -> list[dict[str, Any]]:
    """Describe the cells of a contact sheet for the page."""
    return [
        describe_image(row, view.thumbnails.get(row["uri"]))
        | {
            "diagnosis": page.shortened(row["diagnosis"]),
            "probability": f"{row['probability_' + row['diagnosis']]:.0%}",
            "reason": row["review_reason"],
        }
        for row in view.highlights.sheet(sheet).to_pylist()
    ]


def _fields(view: BatchView) -> list[dict[str, Any]]:
    """Describe the fields for the page, each with a name that slides link to."""
    return [
        describe_field(each) | {"id": f"field-{number}", "slide_key": each.row["slide_id"]}
        for number, each in enumerate(view.fields)
    ]


def _sorted(slides: pa.Table) -> pa.Table:
    """Sort the slides for the page: those under review first, the most abnormal before.

    Only what decides is converted: a night may have ten thousand slides, of which few are shown.
    """
    rows = slides.select(DECIDING).to_pylist()

    def place(number: int) -> tuple[bool, bool, bool, float, float, str]:
        row = rows[number]
        return (
            row["verdict"] != types.Verdict.REVIEW,
            SlideReason.IMPLAUSIBLE not in row["review_reasons"],
            SlideReason.TOGETHER not in row["review_reasons"],
            -(row["shift"] or -np.inf),
            1.0 if row["abnormal_p_value"] is None else row["abnormal_p_value"],
            row["slide_id"] or "",
        )

    return slides.take(pa.array(sorted(range(len(rows)), key=place), pa.int64()))


def _rows(slides: pa.Table, numbers: Sequence[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = slides.take(pa.array(numbers, pa.int64())).to_pylist()
    return rows


def _slide_rows(
    fields: Mapping[str | None, str], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Describe slides for the page, with the first of the fields that are shown of each."""
    return [
        {
            "field": fields.get(row["slide_id"]),
            "answer": calls.call_of(row),
            "name": "no slide named"
            if row["slide_id"] is None
            else page.shortened(row["slide_id"]),
            "patient": page.shortened(row["patient_id"] or "–"),
            "colour": _colour([row[name] for name in image_columns.COLOURS]),
            "cells": row["cells"],
            "scored": row["scored"],
            "failed": row["cells"] - row["scored"],
            "fields": f"{row['fields_read']:,} of {counted(row['fields'], 'field')} read"
            if row["fields"]
            else None,
            "abnormal": row["abnormal"],
            "abnormal_share": page.percent(row["abnormal"], row["scored"]),
            "uncertain": row["uncertain"],
            "abnormality": page.number_text(row["abnormality_median"]),
            "abnormality_value": row["abnormality_median"],
            "shift": page.number_text(row["shift"]),
            "shift_value": row["shift"],
            "smear": [page.number_text(row[name]) for name in ("smear_shift", "smear_spread")],
            "review": row["verdict"] == types.Verdict.REVIEW,
            "reasons": row["review_reasons"],
        }
        for row in rows
    ]


def odd_slides(reasons: Sequence[Collection[str]]) -> dict[str, list[int]]:
    """Number the slides that are no smear, shifted, or abnormal together, by their reasons.

    A slide that cannot be a smear is not also listed as shifted.
    """
    no_smear = [n for n, codes in enumerate(reasons) if SlideReason.IMPLAUSIBLE in codes]
    others = [(n, codes) for n, codes in enumerate(reasons) if SlideReason.IMPLAUSIBLE not in codes]
    return {
        "implausible": no_smear,
        "shifted": [n for n, codes in others if SlideReason.SHIFTED in codes],
        "together": [n for n, codes in others if SlideReason.TOGETHER in codes],
    }


def _colour(values: Sequence[float | None]) -> str | None:
    """Format a mean colour as CSS has it, or None where it is not known."""
    known = [round(value) for value in values if value is not None]
    return f"rgb({', '.join(map(str, known))})" if len(known) == len(values) else None


def _charts(view: BatchView) -> list[tuple[str, Markup]]:
    from tasks.smears.visualisation import (
        charts,  # with Matplotlib, which a photograph's page needs not
    )

    title, highlights = "Abnormality of all scored images", view.highlights
    scores = charts.binned(highlights.edges, highlights.scores, view.threshold, title=title)
    return [(title, scores), *index_page.trends([*view.earlier, view.row][-NIGHTS_SHOWN:])]


def _nights(view: BatchView) -> list[dict[str, Any]]:
    """List the nights up to this one, newest first.

    No row links to its page: which pages there are may change, and the same night must give the
    same text.
    """
    return [
        index_page.night_row(row, {}, view.row["detector"])
        for row in [*view.earlier, view.row][-NIGHTS_SHOWN:][::-1]
    ]


def _failures(view: BatchView) -> list[dict[str, Any]]:
    counts = sorted(view.row["failures"].items(), key=lambda pair: (-pair[1], pair[0]))
    return [
        {
            "reason": reason.replace("_", " "),
            "count": f"{count:,}",
            "examples": [
                (page.file_name(uri), page.shortened(message))
                for uri, message in view.highlights.failures.get(reason, [])
            ],
        }
        for reason, count in counts
    ]
