"""Make the page of a batch, which a person reads in the morning: one file that needs no other."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from markupsafe import Markup

from tasks.detector.verdict import Reason, parse_reasons
from tasks.reports.columns import COLOURS
from tasks.reports.night.batches import BatchSummary
from tasks.reports.parasitaemia import density_text, negative_call_text
from tasks.reports.slide_reasons import SlideReason
from tasks.types import Light, Verdict
from tasks.visualisation import charts
from tasks.visualisation.answers import (
    answer_of,
    axis,
    calls_of,
    expected_text,
    patient_rows,
    places_of_slides,
)
from tasks.visualisation.highlights import ABNORMAL, MOST_OF_A_SLIDE, SAMPLE, UNCERTAIN, Highlights
from tasks.visualisation.index_page import night_row, share_of
from tasks.visualisation.odd_slides import odd_slides
from tasks.visualisation.overlay import COLOURS as CONTOURS
from tasks.visualisation.overlay import (
    ShownField,
    ShownSlide,
    counted_fields,
    describe_field,
    describe_slide,
)
from tasks.visualisation.page import (
    LONGEST_TEXT,
    TEMPLATES,
    data_uri,
    day_text,
    figure_text,
    file_name,
    interval_text,
    number_text,
    p_text,
    percent,
    render,
    shortened,
)
from tasks.visualisation.thumbnails import HEAT_COLOURS, Exhibit

SLIDES_SHOWN = 500
NIGHTS_SHOWN = 14
WIDEST = 30.0  # deviations at which a bar is as long as it gets; bars grow as asinh

LIGHTS = {
    Light.GREEN: "Green: nothing is out of line",
    Light.AMBER: "Amber: something needs a look",
    Light.RED: "Red: look before using any result",
}
REASONS: Mapping[str, str] = {Reason.UNSTABLE: "the diagnosis does not survive a blur"}
SHEETS = {
    ABNORMAL: (
        "Most abnormal cells",
        "Furthest from the other cells of their slide. Their diagnoses are not to be "
        f"believed unseen. At most {MOST_OF_A_SLIDE} are of one slide, as long as others fill the "
        "sheet; images that name no slide count as of one.",
    ),
    UNCERTAIN: (
        "Least certain cells",
        "The most probable class is least probable here. Again at most "
        f"{MOST_OF_A_SLIDE} are of one slide.",
    ),
    SAMPLE: (
        "A random sample",
        "What the night looks like: cells drawn blindly, by the digest of their files.",
    ),
}


@dataclass(frozen=True)
class BatchView:
    """Hold everything that a batch's page is made from.

    ``row`` is the summary of the batch, ``earlier`` those of nights before, oldest first;
    ``slides`` is the report on slides; ``exhibits`` are by address of the image; ``made_by`` are
    facts by name; ``made_from`` identifies the reports; ``fields`` and ``whole_slides`` are those
    to show of a batch whose cells were cut out of them; ``patients`` is the report on patients,
    None in batches of before 0.3.
    """

    row: BatchSummary
    earlier: Sequence[BatchSummary]
    slides: pa.Table
    highlights: Highlights
    exhibits: Mapping[str, Exhibit]
    classes: Sequence[str]
    taps: Sequence[str]
    threshold: float
    made_by: Mapping[str, str]
    command: str
    made_from: str
    fields: Sequence[ShownField] = ()
    whole_slides: Sequence[ShownSlide] = ()
    patients: pa.Table | None = None


def batch_page(view: BatchView) -> str:
    """Make the page, HTML; the same night gives the same text."""
    row, script = view.row, (TEMPLATES / "batch.js").read_text()
    fields = _fields(view)
    sorted_slides = _sorted(view.slides)
    slides = _slide_rows(sorted_slides, {each["slide_key"]: each["id"] for each in fields[::-1]})
    places = places_of_slides(sorted_slides[:SLIDES_SHOWN])
    return render(
        "batch.html",
        title=f"{row.batch}: {row.light}",
        row=row,
        made_from=view.made_from,
        day=day_text(row.batch_date),
        light=LIGHTS[row.light],
        facts=_facts(row),
        **odd_slides(slides),
        sheets=[
            (name, heading, words, _cells(view, name)) for name, (heading, words) in SHEETS.items()
        ],
        fields=fields,
        calls=[] if view.patients is None else calls_of(view.patients),
        patients=[] if view.patients is None else patient_rows(view.patients, places),
        all_patients=0 if view.patients is None else view.patients.num_rows,
        axis=axis(),
        expected=expected_text(row),
        whole_slides=[describe_slide(each) for each in view.whole_slides],
        counted_fields=counted_fields(view.slides),
        contours=[(name, f"rgb{colour}") for name, colour in CONTOURS.items()],
        gradient=_gradient(),
        threshold=number_text(view.threshold),
        slides=slides[:SLIDES_SHOWN],
        all_slides=len(slides),
        charts=_charts(view),
        leading=_leading(view),
        nights=_nights(view),
        failures=_failures(view),
        made_by=view.made_by,
        command=view.command,
        script=Markup(script),
        script_hash=base64.b64encode(sha256(script.encode()).digest()).decode(),
    )


def _facts(row: BatchSummary) -> list[tuple[str, str, str]]:
    """List name, figure and the text under it of each headline fact."""
    scored, low, high = (
        row.scored,
        row.parasitaemia_low,
        row.parasitaemia_high,
    )
    # Of red cells, which are not all that were scored.
    parasitized = "–" if low is None else f"{row.parasitaemia_percent:.1f}%"
    interval = "" if low is None else f"95% interval {low:.1f} to {high:.1f}%"
    return [
        ("Images", f"{row.images:,}", f"{scored:,} scored"),
        ("Parasitized", parasitized, interval),
        (
            "Abnormal",
            percent(row.abnormal, scored),
            f"{row.abnormal:,} cells; {row.alpha:.0%} expected",
        ),
        ("Uncertain", percent(row.uncertain, scored), f"{row.uncertain:,} cells"),
        ("Failed", f"{row.failed:,}", percent(row.failed, row.images) + " of the images"),
        (
            "For review",
            f"{row.review:,}",
            f"cells, and {row.slides_for_review:,} of {row.slides:,} slides",
        ),
    ]


def _cells(view: BatchView, sheet: str) -> list[dict[str, Any]]:
    """Describe the cells of a contact sheet for the page."""
    rows = view.highlights.sheet(sheet)
    if not rows.num_rows:
        return []
    deviations = view.highlights.deviations(rows).tolist()
    return [_cell(view, *each) for each in zip(rows.to_pylist(), deviations, strict=True)]


def _cell(view: BatchView, row: Mapping[str, Any], deviations: Sequence[float]) -> dict[str, Any]:
    exhibit = view.exhibits.get(row["uri"], Exhibit("the image was not looked at again"))
    why, name = exhibit.explanation, file_name(row["uri"])
    probability = row[f"probability_{row['diagnosis']}"]
    return {
        "name": name,
        "uri": shortened(row["uri"], 2 * LONGEST_TEXT),
        "slide": shortened(row["slide_id"]) if row["slide_id"] is not None else None,
        "diagnosis": shortened(row["diagnosis"]),
        "probability": f"{probability:.0%}",
        "abnormality": number_text(row["abnormality"]),
        "p_value": p_text(row["p_value"]),
        "reason": _reasons_text(row["review_reason"]),
        "missing": exhibit.missing,
        "thumbnail": exhibit.thumbnail and data_uri(exhibit.thumbnail, "webp"),
        "heat": exhibit.heat and data_uri(exhibit.heat, "webp"),
        "tap": why and why.tap,
        "nearest": why and shortened(view.classes[why.nearest]),
        "bars": _bars(view, deviations),
    }


def _reasons_text(reasons: str | None) -> str:
    """Say why a person looks at a cell.

    >>> _reasons_text("abnormal, unstable")
    'abnormal, the diagnosis does not survive a blur'
    """
    return ", ".join(REASONS.get(reason, reason) for reason in parse_reasons(reasons))


def _bars(view: BatchView, deviations: Iterable[float]) -> list[dict[str, Any]]:
    """Compute the length of each tap's bar, and where on it the threshold lies, in percent."""

    def place(value: float) -> str:
        return f"{100 * np.clip(np.arcsinh(value) / np.arcsinh(WIDEST), 0, 1):.1f}"

    return [
        {
            "tap": tap,
            "text": number_text(value),
            "width": place(value),
            "limit": place(view.threshold) if np.isfinite(view.threshold) else None,
            "over": value >= view.threshold,
        }
        for tap, value in zip(view.taps, deviations, strict=True)
    ]


def _fields(view: BatchView) -> list[dict[str, Any]]:
    """Describe the fields for the page, each with a name that slides link to."""
    return [
        describe_field(each) | {"id": f"field-{number}", "slide_key": each.row["slide_id"]}
        for number, each in enumerate(view.fields)
    ]


def _sorted(slides: pa.Table) -> list[dict[str, Any]]:
    """Sort the slides for the page: those under review first, the most abnormal before."""
    rows: list[dict[str, Any]] = slides.to_pylist()
    rows.sort(
        key=lambda row: (
            row["verdict"] != Verdict.REVIEW,
            SlideReason.IMPLAUSIBLE not in row["review_reasons"],
            SlideReason.TOGETHER not in row["review_reasons"],
            -(row.get("shift") or -np.inf),
            1.0 if row["abnormal_p_value"] is None else row["abnormal_p_value"],
            row["slide_id"] or "",
        )
    )
    return rows


def _slide_rows(
    rows: Sequence[Mapping[str, Any]], fields: Mapping[str | None, str]
) -> list[dict[str, Any]]:
    """Describe the slides for the page, with the first of the fields that are shown of each."""
    return [
        {
            "field": fields.get(row["slide_id"]),
            "answer": answer_of(row),
            "name": "no slide named" if row["slide_id"] is None else shortened(row["slide_id"]),
            "patient": shortened(row["patient_id"] or "–"),
            "colour": _colour([row[name] for name in COLOURS]),
            "cells": row["cells"],
            "scored": row["scored"],
            "failed": row["failed"],
            "parasitaemia": figure_text(row["parasitaemia_percent"], ".1f"),
            "interval": interval_text(row["parasitaemia_low"], row["parasitaemia_high"]),
            **_of_fields(row),
            "abnormal": row["abnormal"],
            "abnormal_share": percent(row["abnormal"], row["scored"]),
            "uncertain": row["uncertain"],
            "abnormality": number_text(row["abnormality_median"]),
            "p_value": row["p_value_median"],
            "p_text": p_text(row["p_value_median"]),
            "shift": number_text(row.get("shift")),
            "shift_value": row.get("shift"),
            "shift_tap": row.get("shift_tap"),
            "smear": [number_text(row.get(name)) for name in ("smear_shift", "smear_spread")],
            "review": row["verdict"] == Verdict.REVIEW,
            "reasons": row["review_reasons"],
        }
        for row in rows
    ]


def _of_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the fields of view of a slide's row, all None where it has none."""
    # Reports of before there were any have no such columns.
    if not row.get("fields"):
        return {"fields": None, "density": None, "negative": None}
    density, negative = row["density_class"] and density_text(row["density_class"]), None
    if row["parasitized"] == 0 and row["detectable_percent"] is not None:
        density += f"; {row['detectable_percent']:.2g}% would show"
        # Reports of before 0.2.0 do not say what a negative call needs.
        if row.get("negative_call_percent") is not None:
            negative = negative_call_text(row["red_cells"], row["negative_call_percent"])
    return {
        "fields": f"{row['fields_read']:,} of {row['fields']:,} fields read",
        "density": density,
        "negative": negative,
    }


def _colour(values: Sequence[float | None]) -> str | None:
    """Format a mean colour as CSS has it, or None where it is not known."""
    known = [round(value) for value in values if value is not None]
    return f"rgb({', '.join(map(str, known))})" if len(known) == len(values) else None


def _charts(view: BatchView) -> list[tuple[str, Markup]]:
    highlights = view.highlights
    found = [
        (
            "Abnormality of all scored images",
            charts.binned(
                highlights.edges,
                highlights.scores,
                view.threshold,
                title="Abnormality of all scored images",
            ),
        )
    ]
    nights = [row for row in [*view.earlier, view.row][-NIGHTS_SHOWN:] if row.images]
    if len(nights) > 1:
        x = np.arange(1 - len(nights), 1, dtype=np.float64)
        shares = {
            name: (x, np.asarray([share_of(row, name, total) for row in nights]))
            for name, total in (
                ("parasitized", "scored"),
                ("abnormal", "scored"),
                ("failed", "images"),
            )
        }
        chart = charts.lines(
            shares, x_label="nights before this one", y_label="share", title="Earlier nights"
        )
        found.append(("Shares on the last nights", chart))
    return [(caption, Markup(chart)) for caption, chart in found]


def _leading(view: BatchView) -> list[tuple[str, str, str]]:
    """Count, for each tap, the abnormal cells that deviate most at it."""
    counts = view.highlights.leading
    total = sum(counts.values())
    return [(tap, f"{counts[tap]:,}", percent(counts[tap], total)) for tap in view.taps]


def _nights(view: BatchView) -> list[dict[str, Any]]:
    """List the nights up to this one, newest first.

    No row links to its page: which pages there are may change, and the same night must give the
    same text.
    """
    return [
        night_row(row, {}, view.row.detector)
        for row in [*view.earlier, view.row][-NIGHTS_SHOWN:][::-1]
    ]


def _failures(view: BatchView) -> list[dict[str, Any]]:
    counts = sorted(view.row.failures.items(), key=lambda pair: (-pair[1], pair[0]))
    return [
        {
            "reason": reason.replace("_", " "),
            "count": f"{count:,}",
            "examples": [
                (file_name(uri), shortened(message))
                for uri, message in view.highlights.failures.get(reason, [])
            ],
        }
        for reason, count in counts
    ]


def _gradient() -> str:
    """List the colours of the heat maps as CSS, from nothing to the most."""
    stops = mpl.colormaps[HEAT_COLOURS](np.linspace(0, 1, 9))
    return ",".join(mpl.colors.to_hex(stop) for stop in stops)
