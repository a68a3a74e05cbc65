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
from scipy.special import logit

from storage.reports.schemas.slides import slide_schema
from tasks.counting.call import Answers
from tasks.counting.interpretation import KnownRates
from tasks.reports.image_columns import Provenance
from tasks.reports.night.batch_counts import NightTally
from tasks.reports.night.summary import BatchSummary
from tasks.reports.night.tally import BatchTally
from tasks.reports.parasite_counts import Counting, CountTally
from tasks.reports.slide_rows import SlideTally
from tasks.types import Light
from tasks.visualisation.batch_page import BatchView
from tasks.visualisation.highlights import CELLS_SHOWN, Highlights
from tasks.visualisation.overlay import Pen, encode_png, overlay
from tasks.visualisation.patients.called import Called
from tasks.visualisation.viewer.descriptions import ShownField
from tasks.visualisation.viewer.overlays import Contour, FieldPicture
from tasks.visualisation.viewer.overlays import field_picture as plain_picture

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
        "status": np.where(failed, "failed", "scored"),
        "failure": pa.array(np.where(failed, "damaged: cut short", None), pa.string()),
        "diagnosis": known(np.where(rng.random(n) < 0.2, *classes)),
        f"probability_{classes[0]}": known(chance, pa.float32()),
        f"probability_{classes[1]}": known(1 - chance, pa.float32()),
        "log_odds": known(logit(chance)),
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


def parts(rows: pa.Table, length: int = GROUP) -> Iterator[pa.Table]:
    """Rows as a report has them, with text in dictionaries of each part's own."""
    for start in range(0, rows.num_rows, length):
        part = rows.slice(start, length).combine_chunks()
        for name in ("slide_id", "patient_id", "diagnosis", "status", "review_reason"):
            place = part.column_names.index(name)
            part = part.set_column(place, name, part[name].dictionary_encode())
        yield part


def highlights_of(
    rows: pa.Table, length: int = GROUP, classes: tuple[str, ...] = CLASSES
) -> Highlights:
    highlights = Highlights(classes, THRESHOLD)
    for part in parts(rows, length):
        highlights.count(part)
    return highlights


def picture(seed: int, side: int = 128) -> bytes:
    """A thumbnail of noise: no image of its size takes more bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=85)
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
    return encode_png(drawn)


def shown_field(number: int, slide: str | None = None, **other: Any) -> ShownField:
    """A field on the page."""
    row = field_row(number, slide, **other)
    return ShownField(row, plain_field(row["width"], row["height"]))


@cache
def plain_field(width: int, height: int) -> FieldPicture:
    """A field of noise with a cell of each look."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    looks = [("parasitized", False), ("not parasitized", True), ("white cell", False)]
    contours = [
        Contour(f"{i:064x}", kind, abnormal, _ring(100 + 150 * i, 100), f"cell {i}")
        for i, (kind, abnormal) in enumerate(looks)
    ]
    return plain_picture(noise, {"width": width, "height": height}, contours)


def _ring(x: int, y: int) -> tuple[int, ...]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([x + 40 * np.cos(angles), y + 40 * np.sin(angles)], axis=1)
    return tuple(ring.round().astype(int).ravel().tolist())


def summary_of(**values: Any) -> BatchSummary:
    """The summary of a batch without images, but for the values given."""
    made_by = Provenance(
        "m", "m-v0001", "night", date(2026, 3, 7), datetime(2026, 3, 7, tzinfo=UTC)
    )
    return replace(BatchTally(NightTally({}, ALPHA), [], ALPHA).summary(made_by), **values)


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
    made_by = Provenance("m", "m-v0001", "night", date(2026, 3, 7), scored_at)
    tally, slides = BatchTally(NightTally(CALIBRATION, ALPHA), [], ALPHA), SlideTally(ALPHA)
    counts = CountTally(Counting(Answers(rates, 0.01), 5e6))
    for part in parts(rows):
        tally.count(part)
        slides.count(part)
        counts.count(part)
    if fields:
        slides.count_fields(pa.Table.from_pylist(list(fields)))
    slide_rows = slides.table(made_by)
    tally.count_slides(slide_rows)
    patient_rows = counts.patients(slide_rows, made_by)
    tally.count_patients(patient_rows)
    tally.expect(*counts.night(slide_rows, made_by))
    slide_rows = counts.slide_columns(slide_rows, made_by).select(slide_schema().names)
    row = tally.summary(made_by)
    highlights = highlights_of(rows, classes=classes)
    uris = dict.fromkeys(
        uri for name in CELLS_SHOWN for uri in highlights.sheet(name)["uri"].to_pylist()
    )
    return BatchView(
        row=row,
        earlier=[
            replace(row, batch=f"before-{i}", light=light, batch_date=f"2026-03-0{i + 1}")
            for i, light in enumerate([*Light, Light.GREEN][:nights])
        ],
        slides=slide_rows.cast(slide_schema()),
        highlights=highlights,
        thumbnails={uri: see(i) for i, uri in enumerate(uris)},
        classes=classes,
        threshold=THRESHOLD,
        made_by={"model": "m, sha256 " + 64 * "a"},
        command="slidewatch screen --batch night",
        made_from=64 * "f",
        fields=shown,
        patients=patient_rows,
        called=called(patient_rows),
    )
