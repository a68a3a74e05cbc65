"""The sheet of one patient: one page of paper, and the same figures as CSV."""

from typing import Any

import pytest

from tasks.reports.spreadsheet import read_csv
from tasks.visualisation.patients.sheet import CELLS, SLIDES, patient_sheet, patient_table
from tests.support.browser import chromium
from tests.support.nights import picture
from tests.support.pages import EVIL, Page

PERSONS = {"answer": "confirmed", "parasites": 4, "read": 10, "call": "positive", "figure": "1%"}


def row(**other: Any) -> dict[str, Any]:
    told = {
        "patient_id": EVIL, "slide_id": EVIL, "batch": "night", "batch_date": "2026-03-01",
        "call": "positive", "call_reasons": [], "cells_read": 4000, "cells_called": 9,
        "corrected_percent": 0.42, "corrected_low": 0.2, "corrected_high": 0.8,
        "parasites_per_microlitre": 21_000.0, "parasites_per_microlitre_high": 40_000.0,
        "none_above_percent": 0.8, "limit_of_blank_percent": 0.1, "density_class": "below 2%",
        "model": "m", "detector": "d",
    }  # fmt: skip
    return told | other


def sheet(name: str = EVIL) -> str:
    cells = [
        {"uri": f"{i}.png", "image_id": f"{i:064x}", "slide_id": "s", "chance": 0.9, "called": True,
         "abnormality": 0.1, "p_value": 0.5}
        for i in range(20)
    ]  # fmt: skip
    thumbnails, places = ({each["uri"]: picture(seed) for each in cells} for seed in (1, 2))
    own = row(patient_id=name, slide_id=name)
    return patient_sheet(own, [own] * 40, cells, places, thumbnails, PERSONS)


def test_the_sheet_has_the_answers_of_both_and_no_name_breaks_out() -> None:
    page = Page(sheet())
    said = " ".join("".join(page.text).split())
    assert "21,000 parasites/µL: 9 of 4,000 cells called parasitized" in said
    assert "persons: confirmed" in said
    assert "4 of the 10 cells they read are parasites: positive, 1%" in said
    assert f"{40 - SLIDES} more slides are in the slide report" in said
    assert len(page.of("img")) == 2 * CELLS
    assert not page.of("script")


def test_the_sheet_is_one_page_of_paper() -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.set_content(sheet("C33P1thinF_IMG_20150619_114756a"))
        paper = page.pdf(prefer_css_page_size=True)
    assert paper.count(b"/Type /Page") - paper.count(b"/Type /Pages") == 1


@pytest.mark.parametrize("persons", [PERSONS, None])
def test_the_table_has_a_line_for_the_patient_and_one_for_each_slide(
    persons: dict[str, Any] | None,
) -> None:
    _, lines = read_csv(patient_table(row(), [row(), row(slide_id=None)], persons).encode())
    told = [line for _, line in lines]
    assert [line["of"] for line in told] == ["patient", "slide", "slide"]
    assert told[0]["corrected_percent"] == "0.42"
    assert told[0]["persons"] == ("confirmed" if persons else "")
    assert told[1]["name"] == EVIL
