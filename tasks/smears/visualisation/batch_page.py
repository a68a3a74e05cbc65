"""Make the page of a batch, which a person reads in the morning: one file that needs no other.

Another page lists the screened batches and links to the page of each.
"""

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from tasks import types
from tasks.smears.answers.patients import DECIDED, Confirmation
from tasks.smears.counting.call import Call, needs_text, photograph_text
from tasks.smears.reports.called_cells import Patient, patient_of
from tasks.smears.reports.night.counts import Row
from tasks.smears.reports.slide_reasons import SlideReason
from tasks.smears.visualisation import calls, overlay, page
from tasks.smears.visualisation.calls import Called, opened
from tasks.smears.visualisation.highlights import (
    ABNORMAL,
    MOST_OF_A_SLIDE,
    PERSON,
    SAMPLE,
    UNCERTAIN,
    Highlights,
)
from tasks.smears.visualisation.overlay import COLOURS as CONTOURS
from tasks.smears.visualisation.viewer.overlays import FieldPicture, ShownField

PATIENTS_SHOWN, SLIDES_SHOWN = 500, 500
ODD_SHOWN = 20  # slides of each kind to look at as a whole
ABNORMAL_SHOWN = 6  # cells of a photograph in which none looks parasitized
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
        "Unlike the other cells of their slide: parasites, and what looks like them. The most "
        f"probable ones come first, at most {MOST_OF_A_SLIDE} from one slide while other "
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
    ``slides`` and ``patients`` are reports; ``thumbnails`` are by address of the image; ``made_by``
    are facts by name; ``made_from`` identifies the reports; ``fields`` and ``whole_slides`` are
    those to show; ``called`` are the cells behind the calls; ``answers`` are those of persons on
    patients, and ``answered`` identifies them, None without any; ``next_step`` is that after one
    photograph; commands name the ``store`` as here.
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
    store: str
    made_from: str
    fields: Sequence[ShownField] = ()
    whole_slides: Sequence[overlay.ShownSlide] = ()
    called: Called = field(default_factory=Called)
    answers: Mapping[Patient, Confirmation] = field(default_factory=dict)
    answered: str | None = None
    next_step: str = ""


# Of calls, by the light that they are drawn as; an undecided one has none.
SIGNS = {
    Call.POSITIVE: types.Light.RED,
    Call.SUSPECTED: types.Light.AMBER,
    Call.NEGATIVE: types.Light.GREEN,
    Call.UNREADABLE: types.Light.RED,
}


def batch_page(view: BatchView) -> str:
    """Make the page, HTML; the same night gives the same text.

    A batch of one photograph shows the photograph, a sentence, and its likeliest parasites; if no
    cell looks parasitized, its most abnormal cells.
    """
    if len(view.fields) == len(view.patients) == 1 and not view.whole_slides:
        return _photograph_page(view)
    row, slides, patients = view.row, _sorted(view.slides), calls.positive_first(view.patients)
    shown = slides.slice(0, SLIDES_SHOWN).to_pylist()
    # The first row of each patient's slides, and of each slide without one.
    places = {patient_of(each): f"slide-{n}" for n, each in reversed([*enumerate(shown)])}
    places |= {patient_of(each): f"patient-{n}" for n, each in enumerate(opened(patients))}
    odd, rows = odd_slides(slides), [*view.earlier, row][-NIGHTS_SHOWN:]
    everybody = view.patients.select(["slide_id", "patient_id", "call"]).to_pylist()
    counts = Counter(each["call"] for each in everybody)
    decided = {key for key, each in view.answers.items() if each.answer in DECIDED}
    waiting = Counter(each["call"] for each in everybody if patient_of(each) not in decided)
    return page.render(
        "batch.html",
        **{name: value for name, value in vars(view).items() if name not in {"slides", "patients"}},
        title=f"{row['batch']}: {row['light']}",
        confirmed=calls.confirmed_text(view.answers.values()),
        day=page.day_text(row["batch_date"]),
        light=LIGHTS[types.Light(row["light"])],
        needs=needs_text(waiting),
        **{
            kind: slides.take(pa.array(numbers[:ODD_SHOWN], pa.int64())).to_pylist()
            for kind, numbers in odd.items()
        },
        more={kind: len(numbers) - ODD_SHOWN for kind, numbers in odd.items()},
        sheets=[
            (name, *texts, view.highlights.sheet(name).to_pylist())
            for name, texts in SHEETS.items()
        ],
        calls=[(call, f"{counts[call]:,}", words) for call, words in calls.WORDS.items()],
        patients=[
            calls.described(each, view.answers)
            for each in patients.slice(0, PATIENTS_SHOWN).to_pylist()
        ],
        all_patients=len(patients),
        places=places,
        opened=[calls.described(each, view.answers) for each in opened(patients)],
        counted_fields=overlay.counted_fields(view.slides),
        slides=[calls.call_of(each) for each in shown],
        shown_fields={
            each.row["slide_id"]: f"field-{n}" for n, each in reversed([*enumerate(view.fields)])
        },
        all_slides=slides.num_rows,
        charts=_charts(view, rows),
        # Newest first. None links to its page: which pages there are may change.
        nights=rows[::-1],
        failures=sorted(row["failures"].items(), key=lambda pair: (-pair[1], pair[0])),
        **_scripted(view.fields),
    )


def _scripted(fields: Sequence[ShownField]) -> dict[str, Any]:
    """Return the scripts of a page with their digests, and the viewer's style if it is needed."""
    has_pictures = any(isinstance(each.picture, FieldPicture) for each in fields)
    viewer = ("openseadragon.min.js", "viewer.js") if has_pictures else ()
    files = (*(page.VIEWER / name for name in viewer), page.TEMPLATES / "batch.js")
    scripts = [file.read_text("utf-8") for file in files]
    return {
        "viewer_style": Markup((page.VIEWER / "viewer.css").read_text("utf-8")) if fields else "",
        "contours": list(CONTOURS),
        "scripts": [Markup(script) for script in scripts],
        "script_hashes": [
            base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts
        ],
    }


def _photograph_page(view: BatchView) -> str:
    (patient,), (field,) = view.patients.to_pylist(), view.fields
    return page.render(
        "photograph.html",
        title=page.file_name(field.row["source_uri"]),
        row=view.row,
        made_from=view.made_from,
        sentence=photograph_text(view.row, patient),
        sign_of=SIGNS.get(patient["call"]),
        next_step=view.next_step,
        field=field,
        cells=view.called.cells.get(patient_of(patient), ()),
        thumbnails=view.thumbnails,
        places=view.called.places,
        abnormal=view.highlights.sheet(ABNORMAL).to_pylist()[:ABNORMAL_SHOWN],
        threshold=view.threshold,
        made_by=view.made_by,
        **_scripted(view.fields),
    )


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


def odd_slides(slides: pa.Table) -> dict[str, list[int]]:
    """Number the slides that are no smear, shifted, or abnormal together, by their reasons.

    A slide that cannot be a smear is not also listed as shifted.
    """
    reasons = slides["review_reasons"].to_pylist()
    no_smear = [n for n, codes in enumerate(reasons) if SlideReason.IMPLAUSIBLE in codes]
    others = [(n, codes) for n, codes in enumerate(reasons) if SlideReason.IMPLAUSIBLE not in codes]
    return {
        "implausible": no_smear,
        "shifted": [n for n, codes in others if SlideReason.SHIFTED in codes],
        "together": [n for n, codes in others if SlideReason.TOGETHER in codes],
    }


def _charts(view: BatchView, nights: Sequence[Row]) -> list[tuple[str, Markup]]:
    # With Matplotlib, which a photograph's page does not need.
    from tasks.smears.visualisation import charts

    title, highlights = "Abnormality of all scored images", view.highlights
    scores = charts.binned(highlights.edges, highlights.scores, view.threshold, title=title)
    return [(title, scores), *trends(nights)]


def index_page(
    nights: Sequence[Row],
    pages: Mapping[str, str],
    persons: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> str:
    """Make the page, HTML.

    Nights are oldest first; ``pages`` are file names of the batches' pages, by batch, and
    ``persons`` the numbers of patients by persons' call.
    """
    return page.render(
        "index.html",
        title="All batches",
        nights=nights[::-1],
        pages=pages,
        persons=persons,
        detector=nights[-1]["detector"] if nights else "",
        trends=trends(nights),
    )


def trends(nights: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Draw what changes from batch to batch, as captions and charts; none for fewer than two.

    Nights are oldest first; those without images are skipped.
    """
    shown = [row for row in nights if row["images"]]
    if len(shown) < 2:
        return []
    from tasks.smears.visualisation import charts  # with Matplotlib, which takes a while

    of_patients = {
        str(call): _shares(shown, partial(_called, call=call))
        for call in (Call.POSITIVE, Call.SUSPECTED, Call.UNREADABLE)
    }
    of_work = {
        "images for review": _shares(shown, lambda row: row["review"] / row["images"]),
        "slides shifted": _shares(shown, _shifted),
        "images failed": _shares(
            shown, lambda row: (row["images"] - row["scored"]) / row["images"]
        ),
    }
    groups = (("Patients by batch", of_patients), ("Review, shift and failures by batch", of_work))
    return [
        (
            title,
            charts.lines(series, x_label="batches before the last", y_label="share", title=title),
        )
        for title, series in groups
        if any(len(x) for x, _ in series.values())
    ]


def _shares(
    nights: Sequence[Row], share: Callable[[Row], float | None]
) -> tuple[types.Float, types.Float]:
    """Compute a share of each night that has one, and how many nights before the last that was."""
    shares = [(1 - len(nights) + i, share(row)) for i, row in enumerate(nights)]
    known = [(place, value) for place, value in shares if value is not None]
    x, y = np.asarray(known, np.float64).reshape(-1, 2).T
    return x, y


def _called(row: Row, call: Call) -> float | None:
    calls = row["patient_calls"]
    return float(calls.get(call, 0) / sum(calls.values())) if any(calls.values()) else None


def _shifted(row: Row) -> float | None:
    if row["slides_shifted"] is None or not row["slides"]:
        return None
    return float(row["slides_shifted"] / row["slides"])
