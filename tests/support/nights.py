"""Made-up nights for tests of pages: image rows of any number, and all that a page is made from."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from storage.reports.tables import PATIENTS, SLIDES
from tasks.reports import image_columns
from tasks.smears.counting.call import Interpreter
from tasks.smears.counting.interpretation import KnownRates
from tasks.smears.reports import called_cells, calls
from tasks.smears.reports.night.counts import Row
from tasks.smears.visualisation.batch_page import BatchView
from tasks.smears.visualisation.calls import Called, cells_each, opened, positive_first
from tasks.smears.visualisation.highlights import CELLS_SHOWN, ROW, Highlights
from tasks.smears.visualisation.overlay import Pen, overlay
from tasks.smears.visualisation.page import as_webp
from tasks.smears.visualisation.viewer.overlays import Contour, FieldPicture, ShownField
from tasks.smears.visualisation.viewer.overlays import field_picture as plain_picture
from tasks.types import Light
from tests.support.columns import with_column
from tests.support.grouped import group
from tests.support.pages import EVIL

CLASSES, TAPS = ("Parasitized", "Uninfected"), ("layer1", "layer2")
CALIBRATION = {"layer1": (3.0, 0.5), "layer2": (4.0, 0.25)}
THRESHOLD, ALPHA = 1.9, 0.05
GROUP = 16_384
SLIDE_CELLS = 50


def image_rows(
    n: int, seed: int = 0, classes: tuple[str, ...] = CLASSES, **columns: list[Any]
) -> pa.Table:
    """Make n rows of an image report: one in forty is far off, one in a hundred has failed."""
    rng = np.random.default_rng(seed)
    row = np.arange(n)
    failed = rng.random(n) < 0.01
    deviations = rng.normal(-0.5, 0.8, (2, n)) + np.where(rng.random(n) < 0.025, 6, 0)
    score = deviations.max(axis=0)
    abnormal = score >= THRESHOLD
    chance = rng.uniform(0.5, 1, n)
    uncertain = chance < 0.55

    def known(values: Any, kind: pa.DataType | None = None) -> pa.Array:
        return pa.array(values, kind, mask=failed)

    p = np.where(abnormal, 0.04 * rng.random(n), rng.uniform(0.05, 1, n))
    reason = np.where(abnormal, np.where(uncertain, "abnormal, uncertain", "abnormal"), "uncertain")
    reviewed = failed | abnormal | uncertain
    made = {
        "image_id": [f"{number:064x}" for number in rng.integers(0, 2**62, n)],
        "uri": [f"/photos/night/C{i // 400}P1thinF_IMG_{i // 50}_cell_{i}.png" for i in row],
        "slide_id": pa.array([f"C{i // 400}P1_IMG_{i // SLIDE_CELLS}" for i in row], pa.string()),
        "patient_id": pa.array([f"C{i // 400}P1" for i in row], pa.string()),
        **{
            name: known(rng.normal(mean, 3, n), pa.float32())
            for name, mean in {"red": 200, "green": 150, "blue": 160}.items()
        },
        "kind": ["red"] * n,
        "status": np.where(failed, "failed", "scored"),
        "failure": pa.array(np.where(failed, "damaged: cut short", None), pa.string()),
        "diagnosis": known(np.where(rng.random(n) < 0.2, *classes)),
        f"probability_{classes[0]}": known(chance, pa.float32()),
        "log_odds": known(np.log(chance / (1 - chance))),
        f"probability_{classes[1]}": known(1 - chance, pa.float32()),
        **{
            f"distance_{tap}": known(np.exp(mean + sd * deviations[t]))
            for t, (tap, (mean, sd)) in enumerate(CALIBRATION.items())
        },
        "abnormality": known(score),
        "p_value": known(p),
        "population_p_value": known(p),
        "q_value": known(np.minimum(1, 3 * p)),
        "abnormal": known(abnormal),
        "verdict": np.where(reviewed, "review", "accept"),
        "review_reason": pa.array(
            np.where(failed, "failed", np.where(reviewed, reason, None)), pa.string()
        ),
    }
    return pa.table(made | columns)


def by_patients(n: int, patients: int, slide: str = "s") -> pa.Table:
    """Make n rows of patients p0, p1, ..., each of whom has two slides."""
    slides = [f"{slide}{i % (2 * patients)}" for i in range(n)]
    return image_rows(n, slide_id=slides, patient_id=[f"p{i % patients}" for i in range(n)])


def unscored_rows(n: int) -> pa.Table:
    """Make n rows of images that all have failed."""
    rows = image_rows(max(n, 1)).slice(0, n)
    known = ("probability", "distance", "abnormal", "p_value", "q_", "diagnosis")
    for name in (each for each in rows.column_names if each.startswith(known)):
        rows = with_column(rows, name, [None] * n)
    rows = with_column(rows, "failure", ["empty: no bytes"] * n)
    return with_column(rows, "status", ["failed"] * n)


def parts(rows: pa.Table, length: int = GROUP) -> Iterator[pa.Table]:
    """Rows as a report has them, with text in dictionaries of each part's own."""
    for start in range(0, rows.num_rows, length):
        part = rows.slice(start, length).combine_chunks()
        for name in ("slide_id", "patient_id", "diagnosis", "status", "review_reason"):
            place = part.column_names.index(name)
            part = part.set_column(place, name, part[name].dictionary_encode())
        yield part


def highlights_of(
    rows: pa.Table, length: int = GROUP, classes: tuple[str, ...] = CLASSES, start: int = 0
) -> Highlights:
    highlights = Highlights(classes, THRESHOLD)
    numbered = rows.append_column(ROW, pa.array(start + np.arange(rows.num_rows)))
    for part in parts(numbered, length):
        highlights.count(part)
    return highlights


def picture(seed: int, side: int = 128) -> bytes:
    """A thumbnail of noise: no image of its size takes more bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=85)
    return file.getvalue()


def smooth_picture(side: int) -> bytes:
    """A picture as busy as a smear is."""
    noise = np.random.default_rng(0).integers(0, 256, (14, 14, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(file, "WEBP")
    return file.getvalue()


def field_row(number: int, slide: str | None = None, **other: Any) -> dict[str, Any]:
    """What the page needs of a row of the report on fields."""
    row = {
        "source_uri": f"/photos/night/field_{number}.jpg",
        "slide_id": slide,
        "patient_id": None,
        **{"x": 0, "y": 0, "width": 720, "height": 540, "diameter": 80.0},
        **{"kind": "field", "failure": None, "cells": 30, "cells_at_border": 4},
        **{"images": 26, "parasitized": number, "abnormal": 2, "failed": 1},
        "review_reason": None,
    }
    return row | other


@cache
def field_picture() -> bytes:
    """A field of noise with two contours: hardly a picture takes more bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (540, 720, 3), np.uint8)
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = 60 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    drawn = overlay(noise, [ring + 200, ring + 400], [Pen("parasitized"), Pen("failed", True)])
    return as_webp(Image.fromarray(drawn))


def shown_field(number: int, slide: str | None = None, **other: Any) -> ShownField:
    """A field on the page."""
    row = field_row(number, slide, **other)
    return ShownField(row, plain_field(row["width"], row["height"]))


@cache
def plain_field(width: int, height: int) -> FieldPicture:
    """A field of noise with a cell of each look, the first cut off by the border."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    looks = [("parasitized", False), ("not parasitized", True), ("white cell", False)]
    contours = [
        Contour(f"{i:064x}", kind, abnormal, _ring(20 + 150 * i, 100), f"cell {i}", i % 2)
        for i, (kind, abnormal) in enumerate(looks)
    ]
    return plain_picture(noise, {"width": width, "height": height}, contours)


def _ring(x: int, y: int) -> tuple[int, ...]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([x + 40 * np.cos(angles), y + 40 * np.sin(angles)], axis=1)
    return tuple(ring.round().astype(int).ravel().tolist())


def called_of(patients: pa.Table) -> Called:
    """As many cells of each opened patient as the page shows, the first of them called."""
    rows = opened(positive_first(patients))
    each = cells_each(len(rows))
    cells = {
        called_cells.patient_of(row): [
            {
                "uri": f"/photos/{EVIL}.jpg#{i}-{j}", "image_id": f"{100 * i + j:064x}",
                "slide_id": EVIL, "chance": 1 - 0.01 * j, "called": j == 0,
                "aside": None, "abnormality": 0.3, "p_value": 0.2,
            }
            for j in range(each)
        ]
        for i, row in enumerate(rows)
    }  # fmt: skip
    every = [cell["uri"] for some in cells.values() for cell in some]
    return Called(cells, dict.fromkeys(every, smooth_picture(224)))


def hostile_night() -> BatchView:
    """All that the page of a night is made from, whose every name would break out of it."""
    rows = image_rows(
        90,
        classes=(EVIL, "Uninfected"),
        uri=[f"/photos/{EVIL}{i}" for i in range(90)],
        slide_id=[f"{EVIL}{i // 20}" for i in range(90)],
        patient_id=[EVIL] * 90,
        failure=[f"{EVIL}: {EVIL}"] * 90,
    )
    night = night_of(rows, classes=(EVIL, "Uninfected"))
    row = night.row | {"reasons": [EVIL], "batch": EVIL, "failures": {EVIL: 1}}
    return replace(night, row=row, made_by={EVIL: EVIL}, command=EVIL, store=EVIL)


def summary_of(**values: Any) -> Row:
    """The row of a batch without images, except for the values given."""
    made_by = image_columns.Provenance(
        "m", "m-v0001", "night", date(2026, 3, 7), datetime(2026, 3, 7, tzinfo=UTC)
    )
    return group([], made_by=made_by).batch | values


def night_of(
    rows: pa.Table,
    *,
    nights: int = 4,
    classes: tuple[str, ...] = CLASSES,
    see: Callable[[int], bytes | str] = picture,
    fields: Sequence[dict[str, Any]] = (),
    shown: Sequence[ShownField] = (),
    rates: KnownRates | None = None,
    called: Callable[[pa.Table], Called] = lambda patients: Called(),
) -> BatchView:
    """All that the page of these rows is made from; the batch is called night."""
    scored_at = datetime(2026, 3, 7, 6, tzinfo=UTC)
    made_by = image_columns.Provenance("m", "m-v0001", "night", date(2026, 3, 7), scored_at)
    counting = calls.Counting(
        Interpreter(rates, 0.01),
        lambda: Interpreter(rates, 0.01),
        5e6,
        ALPHA,
        Interpreter(rates, 0.01),
    )
    grouped = group(
        rows, fields=list(fields) or None, counting=counting, scales=CALIBRATION, made_by=made_by
    )
    row = grouped.batch
    highlights = highlights_of(rows, classes=classes)
    uris = dict.fromkeys(
        uri for name in CELLS_SHOWN for uri in highlights.sheet(name)["uri"].to_pylist()
    )
    return BatchView(
        row=row,
        earlier=[
            row | {"batch": f"before-{i}", "light": light, "batch_date": f"2026-03-0{i + 1}"}
            for i, light in enumerate([*Light, Light.GREEN][:nights])
        ],
        slides=grouped.tables[SLIDES],
        highlights=highlights,
        thumbnails={uri: see(i) for i, uri in enumerate(uris)},
        classes=classes,
        threshold=THRESHOLD,
        made_by={"model": "m, sha256 " + 64 * "a"},
        command="slidewatch screen --batch night",
        store="/nights/store",
        made_from=64 * "f",
        fields=shown,
        patients=grouped.tables[PATIENTS],
        called=called(grouped.tables[PATIENTS]),
    )
