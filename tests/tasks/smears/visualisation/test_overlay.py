import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks.smears.visualisation.overlay import (
    COLOURS,
    Outline,
    Pen,
    fields_to_show,
    outline_of,
    overlay,
    pen_of,
    slide_picture,
)
from tasks.smears.visualisation.page import as_webp

GROUND = 200


def ground(height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), GROUND, np.uint8)


def ring(x: float, y: float, radius: float, angles: int = 48) -> Outline:
    turn = np.linspace(0, 2 * np.pi, angles, endpoint=False)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)


def cell(**other: Any) -> dict[str, Any]:
    row = {"uri": "u", "x": 0, "y": 0, "status": "scored", "diagnosis": "Uninfected"}
    return row | {"abnormal": False, "kind": "red"} | other


def coloured(picture: np.ndarray, name: str) -> np.ndarray:
    """Which pixels are of a pen's colour."""
    near = np.abs(picture.astype(int) - COLOURS[name]).max(axis=2) < 40
    return np.asarray(near)


@pytest.mark.parametrize(
    ("row", "pen"),
    [
        (cell(), Pen("not parasitized")),
        (cell(diagnosis="Parasitized"), Pen("parasitized")),
        (cell(diagnosis="Parasitized", abnormal=True), Pen("parasitized", True)),
        (cell(kind=None, abnormal=True), Pen("not parasitized", True)),
        (cell(kind="white", diagnosis="Parasitized", abnormal=True), Pen("white cell", True)),
        (cell(status="failed", diagnosis=None, abnormal=None), Pen("failed")),
    ],
)
def test_a_pen_says_what_a_cell_was_called(row: dict[str, Any], pen: Pen) -> None:
    assert pen_of(row) == pen


def test_a_contour_lies_on_its_outline_and_nowhere_else() -> None:
    picture = overlay(ground(), [ring(80, 60, 40)], [Pen("parasitized")])
    y, x = np.nonzero(coloured(picture, "parasitized"))
    away = np.hypot(x - 80, y - 60)
    assert len(away) > 100
    assert away.min() > 38
    assert away.max() < 42
    # It is closed: some of it lies in every direction.
    assert len(np.unique((np.arctan2(y - 60, x - 80) * 5).astype(int))) == 31
    assert (picture[60, 80] == GROUND).all()
    assert (picture[2, 2] == GROUND).all()


def test_what_is_abnormal_is_dashed() -> None:
    whole, dashed = (
        coloured(overlay(ground(), [ring(80, 60, 40)], [Pen("parasitized", each)]), "parasitized")
        for each in (False, True)
    )
    assert 0.35 < dashed.sum() / whole.sum() < 0.65
    turn = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    on = dashed[
        np.rint(60 + 40 * np.sin(turn)).astype(int), np.rint(80 + 40 * np.cos(turn)).astype(int)
    ]
    assert np.count_nonzero(on != np.roll(on, 1)) >= 16


def test_what_lies_outside_is_not_drawn_and_the_picture_given_stays_as_it_is() -> None:
    pixels = ground()
    picture = overlay(pixels, [ring(0, 0, 30), ring(500, 500, 20)], [Pen("failed")] * 2)
    assert picture.shape == pixels.shape
    assert coloured(picture, "failed").any()
    assert (pixels == GROUND).all()
    assert (overlay(pixels, [], []) == pixels).all()


@pytest.mark.parametrize(
    "flat", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 1, float("nan"), 2]]
)
def test_an_outline_that_is_none_is_refused_by_name(flat: list[float]) -> None:
    with pytest.raises(ValueError, match=r"the outline of u is no list"):
        outline_of(cell(), flat)


@pytest.mark.parametrize("most_bytes", [2_000, 30_000, 400_000])
def test_a_picture_is_as_large_as_its_bytes_allow(most_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    content = as_webp(Image.fromarray(noise), most_bytes=most_bytes)
    image = Image.open(io.BytesIO(content))
    assert (image.format, len(content) <= most_bytes) == ("WEBP", True)
    assert image.width / image.height == pytest.approx(4 / 3, rel=0.05)
    assert len(content) > 0.4 * most_bytes or image.size == (400, 300)


@pytest.mark.parametrize("name", COLOURS)
def test_a_picture_of_a_slide_keeps_the_colours_of_its_contours(name: str) -> None:
    picture = overlay(ground(900, 1200), [ring(600, 450, 300)], [Pen(name)])
    line = (picture == COLOURS[name]).all(axis=2)
    found = np.asarray(Image.open(io.BytesIO(as_webp(Image.fromarray(picture)))).convert("RGB"))
    assert line.sum() > 100
    assert np.linalg.norm(found[line].mean(axis=0) - COLOURS[name]) < 25  # measured: 4 to 20


def test_fields_with_parasites_are_shown_first_then_abnormal_ones() -> None:
    def field(name: str, *counts: int, **other: Any) -> dict[str, Any]:
        values = dict(zip(("parasitized", "abnormal", "images"), counts, strict=True))
        return {"name": name, "kind": "field", "cells": 9, "review_reason": None} | values | other

    fields = [
        field("plain", 0, 0, 40),
        field("empty", 0, 0, 0, kind="empty"),
        field("crowded", 0, 0, 10, review_reason="crowded"),
        field("abnormal", 0, 3, 5),
        field("one", 1, 0, 5),
        field("failed", 0, 0, 0, kind=None, review_reason="failed"),
        field("two", 2, 0, 5),
        field("another plain", 0, 0, 40),
    ]
    table = pa.Table.from_pylist(fields)
    names = fields_to_show(table)["name"].to_pylist()
    assert names == ["two", "one", "abnormal", "crowded", "plain", "another plain"]
    assert fields_to_show(table, most=2)["name"].to_pylist() == names[:2]
    assert fields_to_show(table.slice(0, 0)).num_rows == 0


def test_a_slide_from_afar_has_a_box_round_each_field() -> None:
    def field(column: int, **other: Any) -> dict[str, Any]:
        place = {"x": 4000 * column, "y": 0, "width": 4000, "height": 4000, "kind": "field"}
        return place | {"parasitized": 0, "review_reason": None} | other

    fields = [
        field(0),
        field(1, parasitized=2),
        field(2, parasitized=1, review_reason="dark"),
        field(3, kind="thick"),
        field(4, kind="empty"),
        field(5, x=None, y=None, width=None, height=None, kind=None),
    ]
    picture = slide_picture(ground(80, 400), (20_000, 4_000), fields)
    assert picture.shape == (80, 400, 3)
    boxes = [picture[:, 80 * i : 80 * (i + 1)] for i in range(5)]
    found = [{name for name in COLOURS if coloured(box, name).any()} for box in boxes]
    assert found == [{"not parasitized"}, {"parasitized"}, {"parasitized"}, {"failed"}, set()]
    whole, dashed = (coloured(box, "parasitized").sum() for box in boxes[1:3])
    assert dashed < 0.7 * whole
    assert (boxes[4] == GROUND).all()
