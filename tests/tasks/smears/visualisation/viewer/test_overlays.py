"""Contours that a page draws over a plain picture."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.smears.visualisation.overlay import COLOURS, LONGEST
from tasks.smears.visualisation.page import VIEWER
from tasks.smears.visualisation.viewer.overlays import (
    CLASSES,
    FieldPicture,
    ShownField,
    contour_of,
    field_picture,
)
from tests.support.pages import EVIL, Page


def cell(**other: Any) -> dict[str, Any]:
    row = {
        "uri": "u", "image_id": "a", "x": 1100, "y": 560, "width": 50, "height": 40, "kind": "red",
        "status": "scored", "diagnosis": "Parasitized", "abnormal": False, "abnormality": 1.24,
        "p_value": 0.3, "probability_Parasitized": 0.97,
    }  # fmt: skip
    return row | other


def test_a_contour_lies_in_its_picture_and_says_two_or_three_figures() -> None:
    found = contour_of(cell(), [0, 0, 49, 0, 49, 39], (1000, 500))
    assert found.points == (100, 60, 149, 60, 149, 99)
    assert (found.kind, found.abnormal) == ("parasitized", False)
    assert found.said == "Parasitized 97.0%, abnormality 1.2, p .3"


def test_a_cell_without_an_outline_has_its_box() -> None:
    assert contour_of(cell(), None, (1000, 500)).points == (100, 60, 150, 60, 150, 100, 100, 100)


def test_what_failed_says_nothing_more() -> None:
    failed = contour_of(cell(status="failed", diagnosis=None, abnormal=None), None)
    assert (failed.kind, failed.said) == ("failed", "not read")


def test_the_svg_has_each_cell_and_no_name_breaks_out() -> None:
    cells = contour_of(cell(diagnosis=EVIL, abnormal=True), None), contour_of(cell(), None)
    found = Page(str(FieldPicture(b"", (640, 480), cells).svg))
    paths = found.of("path")
    assert [path["class"] for path in paths] == ["parasitized", "not-parasitized abnormal"]
    assert not found.of("script")
    assert found.of("svg")[0]["viewbox"] == "0 0 640 480"


def test_a_large_field_becomes_a_picture_that_a_screen_can_show() -> None:
    made = field_picture(np.full((2000, 3000, 3), 9, np.uint8), {"width": 3000, "height": 2000}, [])
    assert Image.open(io.BytesIO(made.picture)).size == (LONGEST, LONGEST * 2 // 3)
    assert made.size == (3000, 2000)


def test_the_viewer_draws_every_class_in_the_colour_of_the_pictures() -> None:
    style = (VIEWER / "viewer.css").read_text()
    for name in CLASSES:
        (found,) = re.findall(rf"\.contours \.{name.replace(' ', '-')}, .*?stroke: (#\w+)", style)
        if name in COLOURS:
            assert found == "#{:02x}{:02x}{:02x}".format(*COLOURS[name])


def test_the_library_has_its_licence_beside_it_and_closes_no_script() -> None:
    licence = Path(VIEWER / "openseadragon.LICENSE.txt").read_text()
    assert "Redistribution and use in source and binary forms" in licence
    assert "</script" not in (VIEWER / "openseadragon.min.js").read_text().lower()


@pytest.mark.parametrize(
    ("row", "microns"),
    [
        ({"microns_per_pixel": 0.25, "diameter": 30.0}, 0.25),
        ({"microns_per_pixel": None, "diameter": 75.0}, 0.1),
        ({"microns_per_pixel": None, "diameter": None}, None),
    ],
)
def test_the_scale_of_a_photograph_is_told_by_its_red_cells(
    row: dict[str, Any], microns: float | None
) -> None:
    assert ShownField(row, "gone").microns == microns
