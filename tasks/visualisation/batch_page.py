"""Make the page of a batch, which a person reads in the morning: one file that needs no other."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from markupsafe import Markup

from tasks.images.addresses import path_of
from tasks.reports.batches import BatchSummary
from tasks.reports.columns import COLOURS
from tasks.reports.parasitaemia import density_text, negative_call_text
from tasks.reports.slides import SlideReason
from tasks.types import FieldKind, Light, Verdict
from tasks.visualisation import charts
from tasks.visualisation.highlights import ABNORMAL, MOST_OF_A_SLIDE, SAMPLE, UNCERTAIN, Highlights
from tasks.visualisation.overlay import COLOURS as CONTOURS
from tasks.visualisation.page import TEMPLATES, data_uri, render
from tasks.visualisation.thumbnails import HEAT_COLOURS, Exhibit

SLIDES_SHOWN = 500
TOGETHER_SHOWN = 20
NIGHTS_SHOWN = 14
LONGEST = 160  # characters of a name or message; the report has them all
WIDEST = 30.0  # deviations at which a bar is as long as it gets; bars grow as asinh

LIGHTS = {
    Light.GREEN: "Green: nothing is out of line",
    Light.AMBER: "Amber: something needs a look",
    Light.RED: "Red: look before using any result",
}
SHEETS = {
    ABNORMAL: (
        "Most abnormal cells",
        "Furthest from everything that the detector was fitted on. Their diagnoses are not to be "
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
class ShownField:
    """Hold a field of view on the page: its row of the report on fields, and its picture.

    ``picture`` is a PNG file of `tasks.visualisation.overlay`; without one, ``missing`` says why.
    """

    row: Mapping[str, Any]
    picture: bytes | None = None
    missing: str | None = None


@dataclass(frozen=True)
class ShownSlide:
    """Hold a slide on the page: where it is, its rows of the report on fields, and its picture.

    ``picture`` is a PNG file of `tasks.visualisation.overlay`; without one, ``missing`` says why.
    """

    source_uri: str
    fields: Sequence[Mapping[str, Any]]
    picture: bytes | None = None
    missing: str | None = None


@dataclass(frozen=True)
class BatchView:
    """Hold everything that a batch's page is made from.

    ``row`` is the summary of the batch, ``earlier`` those of nights before, oldest first;
    ``slides`` is the report on slides; ``exhibits`` are by address of the image; ``made_by`` are
    facts by name; ``made_from`` identifies the reports; ``fields`` and ``whole_slides`` are those
    to show of a batch whose cells were cut out of them.
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


def batch_page(view: BatchView) -> str:
    """Make the page, HTML; the same night gives the same text."""
    row, script = view.row, (TEMPLATES / "batch.js").read_text()
    slides = _slide_rows(view.slides)
    together = [each for each in slides if SlideReason.TOGETHER in each["reasons"]]
    return render(
        "batch.html",
        title=f"{row.batch}: {row.light}",
        row=row,
        made_from=view.made_from,
        day=_day(row.batch_date),
        light=LIGHTS[row.light],
        facts=_facts(row),
        together=together[:TOGETHER_SHOWN],
        more_together=max(0, len(together) - TOGETHER_SHOWN),
        sheets=[
            (name, heading, words, _cells(view, name)) for name, (heading, words) in SHEETS.items()
        ],
        fields=[_field(each) for each in view.fields],
        whole_slides=[_whole_slide(each) for each in view.whole_slides],
        counted_fields=_counted_fields(view.slides),
        contours=[(name, f"rgb{colour}") for name, colour in CONTOURS.items()],
        gradient=_gradient(),
        threshold=_number(view.threshold),
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
        "uri": shortened(row["uri"], 2 * LONGEST),
        "slide": shortened(row["slide_id"]) if row["slide_id"] is not None else None,
        "diagnosis": shortened(row["diagnosis"]),
        "probability": f"{probability:.0%}",
        "abnormality": _number(row["abnormality"]),
        "p_value": p_text(row["p_value"]),
        "reason": row["review_reason"],
        "missing": exhibit.missing,
        "thumbnail": exhibit.thumbnail and data_uri(exhibit.thumbnail, "webp"),
        "heat": exhibit.heat and data_uri(exhibit.heat, "webp"),
        "tap": why and why.tap,
        "nearest": why and shortened(view.classes[why.nearest]),
        "bars": _bars(view, deviations),
    }


def _bars(view: BatchView, deviations: Iterable[float]) -> list[dict[str, Any]]:
    """Compute the length of each tap's bar, and where on it the threshold lies, in percent."""

    def place(value: float) -> str:
        return f"{100 * np.clip(np.arcsinh(value) / np.arcsinh(WIDEST), 0, 1):.1f}"

    return [
        {
            "tap": tap,
            "text": _number(value),
            "width": place(value),
            "limit": place(view.threshold) if np.isfinite(view.threshold) else None,
            "over": value >= view.threshold,
        }
        for tap, value in zip(view.taps, deviations, strict=True)
    ]


def _field(field: ShownField) -> dict[str, Any]:
    """Describe a field of view for the page."""
    row = field.row
    counts = {
        "cell": row["cells"],
        "parasitized": row["parasitized"],
        "abnormal": row["abnormal"],
        "failed": row["failed"],
    }
    return {
        "name": file_name(row["source_uri"]),
        "uri": shortened(row["source_uri"], 2 * LONGEST),
        "slide": shortened(row["slide_id"]) if row["slide_id"] is not None else None,
        # A photograph is all of its source.
        "place": f"{row['x']:,}, {row['y']:,}" if row["x"] or row["y"] else None,
        "cells": f"{counts['cell']:,} cell{'s' * (counts['cell'] != 1)}",
        "counts": ", ".join(
            f"{counts[name]:,} {name}" for name in ("parasitized", "abnormal", "failed")
        ),
        "reason": row["review_reason"],
        "picture": field.picture and data_uri(field.picture, "png"),
        "missing": field.missing,
    }


def _whole_slide(slide: ShownSlide) -> dict[str, Any]:
    """Describe a slide seen from afar for the page."""
    read = [row for row in slide.fields if row["kind"] == FieldKind.FIELD]
    parasitized = sum(row["parasitized"] > 0 for row in read)
    reviewed = sum(row["review_reason"] is not None for row in slide.fields)
    return {
        "name": file_name(slide.source_uri),
        "uri": shortened(slide.source_uri, 2 * LONGEST),
        "fields": f"{len(read):,} of {len(slide.fields):,} fields read",
        "counts": f"{parasitized:,} with parasitized cells, {reviewed:,} for review",
        "picture": slide.picture and data_uri(slide.picture, "png"),
        "missing": slide.missing,
    }


def _counted_fields(slides: pa.Table) -> list[str]:
    """Count the fields of view that were read, and the others by reason; empty without fields."""
    if "fields" not in slides.column_names:  # in reports of before there were any
        return []
    rows = [row for row in slides.to_pylist() if row["fields"]]
    left_out = Counter[str]()
    for row in rows:
        left_out.update(dict(row["exclusions"]))
    counts = {
        FieldKind.FIELD: sum(row["fields_read"] for row in rows),
        **dict(sorted(left_out.items())),
    }
    words: dict[str, str] = {FieldKind.FIELD: "read"}
    return (
        [f"{n:,} {words.get(name, name.replace('_', ' '))}" for name, n in counts.items()]
        if rows
        else []
    )


def _slide_rows(slides: pa.Table) -> list[dict[str, Any]]:
    """Describe the slides for the page: those under review first, the most abnormal before."""
    rows = slides.to_pylist()
    rows.sort(
        key=lambda row: (
            row["verdict"] != Verdict.REVIEW,
            SlideReason.TOGETHER not in row["review_reasons"],
            1.0 if row["abnormal_p_value"] is None else row["abnormal_p_value"],
            row["slide_id"] or "",
        )
    )
    return [
        {
            "name": "no slide named" if row["slide_id"] is None else shortened(row["slide_id"]),
            "patient": shortened(row["patient_id"] or "–"),
            "colour": _colour([row[name] for name in COLOURS]),
            "cells": row["cells"],
            "scored": row["scored"],
            "failed": row["failed"],
            "parasitaemia": _figure(row["parasitaemia_percent"], ".1f"),
            "interval": _interval(row["parasitaemia_low"], row["parasitaemia_high"]),
            **_of_fields(row),
            "abnormal": row["abnormal"],
            "abnormal_share": percent(row["abnormal"], row["scored"]),
            "uncertain": row["uncertain"],
            "abnormality": _number(row["abnormality_median"]),
            "p_value": row["p_value_median"],
            "p_text": p_text(row["p_value_median"]),
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
            name: (x, np.asarray([_share(row, name, total) for row in nights]))
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


def _share(row: BatchSummary, name: str, total: str) -> float:
    return float(getattr(row, name) / (getattr(row, total) or 1))


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


def night_row(row: BatchSummary, pages: Mapping[str, str], detector: str) -> dict[str, Any]:
    """Describe a night as a line of a table; ``other`` says that another detector scored it."""
    scored = row.scored
    return {
        "date": row.batch_date,
        "batch": row.batch,
        "page": pages.get(row.batch),
        "light": row.light,
        "reasons": row.reasons,
        "images": f"{row.images:,}",
        "parasitized": percent(row.parasitized, scored),
        "abnormal": percent(row.abnormal, scored),
        "uncertain": percent(row.uncertain, scored),
        "failed": percent(row.failed, row.images),
        "review": f"{row.review:,}",
        "slides": f"{row.slides_for_review:,} of {row.slides:,}",
        "other": row.detector != detector,
    }


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


def file_name(uri: str) -> str:
    """Name an image's file, in an archive or not.

    >>> file_name("zip://cells/C1_cell_2.png::/data/view.zip"), file_name("/photos/a.png")
    ('C1_cell_2.png', 'a.png')
    """
    return shortened(path_of(uri).rstrip("/").rpartition("/")[2] or uri)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Leave out the middle of a text that is too long for a page.

    >>> shortened("C48P9thinF_IMG_20150721", 11)
    'C48P9…50721'
    """
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def percent(count: int, total: int) -> str:
    """Format a share in percent, with a dash where the total is 0.

    >>> percent(3, 40), percent(0, 0)
    ('7.5%', '–')
    """
    return f"{count / total:.1%}" if total else "–"


def p_text(value: float | None) -> str:
    """Format a p-value to two digits.

    >>> [p_text(value) for value in (0.0412, 1.0, 0.00003, None)]
    ['.041', '1', '< .0001', '–']
    """
    if value is None:
        return "–"
    return "< .0001" if value < 1e-4 else f"{value:.2g}".removeprefix("0")


def _day(text: str) -> str:
    day = date.fromisoformat(text)
    return f"{day.day} {day:%B %Y}"


def _number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.0f} to {high:.0f}"
