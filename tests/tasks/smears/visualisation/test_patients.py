"""The page opens each positive or indeterminate patient to the cells behind his call."""

import re
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tasks.smears.answers.patients import Confirmation, PatientAnswer
from tasks.smears.visualisation.batch_page import batch_page
from tasks.smears.visualisation.calls import (
    CELLS,
    PATIENTS_OPENED,
    SLIDES,
    Called,
    cells_each,
    patient_sheet,
)
from tests.support import nights, pages, rates
from tests.support.browser import chromium

MB = 1_000_000


def page_of(rows: int = 2000, patients: int = 5, **options: Any) -> str:
    table = nights.by_patients(rows, patients)
    options = {"rates": rates.RATES, "called": nights.called_of} | options
    return batch_page(nights.night_of(table, **options))


def test_a_click_on_a_positive_patient_leads_to_his_cells_most_probable_first() -> None:
    page = page_of()
    (first,) = re.findall(r'<th scope="row" class="name"><a href="#(patient-0)">p\d</a>', page)
    (cells,) = re.findall(rf'<div id="{first}">(.*?)</details>', page, re.DOTALL)
    assert re.findall(r"<strong>parasitized</strong> ([^<]+)<", cells)[:3] == [
        "&gt; 99.9%", "99.0%", "98.0%",
    ]  # fmt: skip
    assert cells.count("not sure enough") == cells.count("<figure") - 1
    assert cells.count("its corners marked") == cells.count("<figure") == cells_each(5)


def test_a_place_that_cannot_be_drawn_says_why_and_names_stay_text() -> None:
    def without(patients: pa.Table) -> Called:
        made = nights.called_of(patients)
        return Called(made.cells, dict.fromkeys(made.places, f"gone {pages.EVIL}"))

    table = nights.by_patients(500, 1)
    found = pages.Page(batch_page(nights.night_of(table, rates=rates.RATES, called=without)))
    assert not [each for each in found.of("img") if each.get("src") == "x"]
    labels = [str(each.get("aria-label")) for each in found.of("div")]
    assert len([each for each in labels if each.startswith("No field of")]) == cells_each(1)


def test_of_many_patients_the_first_are_opened_and_others_lead_to_their_slides() -> None:
    page = page_of(patients=2 * PATIENTS_OPENED)
    assert page.count('<details class="patient"') == PATIENTS_OPENED
    assert len(re.findall(r'<a href="#slide-\d+">p\d+</a>', page)) > 0


@pytest.mark.parametrize("patients", [pytest.param(1, marks=pytest.mark.slow), 40])
def test_a_page_of_100_000_cells_with_all_it_can_show_stays_below_5_megabytes(
    patients: int,
) -> None:
    shown = [nights.shown_field(i) for i in range(2)]
    page = page_of(
        100_000,
        patients,
        fields=[each.row for each in shown],
        shown=shown,
        see=lambda _: nights.smooth_picture(128),
    )
    assert len(page.encode()) < 5 * MB


PERSONS = Confirmation(
    PatientAnswer.CONFIRMED, 10, 4, "positive", 0.01, 0.005, 0.02, marked=("0" * 64,)
)


def row(**other: Any) -> dict[str, Any]:
    told = {
        "patient_id": pages.EVIL, "slide_id": pages.EVIL,
        "batch": "night", "batch_date": "2026-03-01",
        "call": "positive", "call_reasons": [], "cells_read": 4000, "cells_called": 9,
        "corrected_percent": 0.42, "corrected_low": 0.2, "corrected_high": 0.8,
        "parasites_per_microlitre": 21_000.0, "parasites_per_microlitre_high": 40_000.0,
        "none_above_percent": 0.8, "limit_of_blank_percent": 0.1, "density_class": "below 2%",
        "model": "m", "detector": "d", "parasitized": 9, "set_aside": {},
    }  # fmt: skip
    return told | other


def sheet(name: str = pages.EVIL) -> str:
    cells = [
        {"uri": f"{i}.png", "image_id": f"{i:064x}", "slide_id": "s", "chance": 0.9, "called": True,
         "aside": None, "abnormality": 0.1, "p_value": 0.5}
        for i in range(20)
    ]  # fmt: skip
    thumbnails, places = ({each["uri"]: nights.picture(seed) for each in cells} for seed in (1, 2))
    own = row(patient_id=name, slide_id=name)
    return patient_sheet(own, [own] * 40, cells, places, thumbnails, PERSONS)


def test_the_sheet_has_the_answers_of_both_and_no_name_breaks_out() -> None:
    page = pages.Page(sheet())
    said = page.words
    assert "21,000 parasites/µL: 9 of 4,000 cells counted as parasitized" in said
    assert "persons: confirmed4 of 10 cells are parasites: positive, 1% (0.5 to 2%)" in said
    assert said.count("a person: a parasite") == 1
    assert f"{40 - SLIDES} more slides are in the slide report" in said
    assert len(page.of("img")) == 2 * CELLS
    assert not page.of("script")


def test_the_sheet_is_one_page_of_paper() -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.set_content(sheet("C33P1thinF_IMG_20150619_114756a"))
        paper = page.pdf(prefer_css_page_size=True)
    assert paper.count(b"/Type /Page") - paper.count(b"/Type /Pages") == 1


def test_a_batch_of_one_photograph_shows_it_with_a_sentence_and_its_likeliest_parasites() -> None:
    shown = nights.shown_field(0)
    shown = replace(shown, row=shown.row | {"patient_id": "p0", "slide_id": "s0"})
    page = page_of(60, 1, fields=[shown.row], shown=[shown])
    (sentence,) = re.findall(r'<p class="said">.*?</svg>\s*(.*?)</p>', page, re.DOTALL)
    assert re.match(r"[A-Z]\w+(, about \d+%)?: of \d+ cells \d+ looks? parasitized", sentence)
    assert page.index('class="photo"') < page.index("Likeliest parasites")
    assert page.count('<figure class="cell"') == cells_each(1)
    assert "<table" not in page
    none = page_of(60, 1, fields=[shown.row], shown=[shown], called=lambda _: Called())
    assert none.count('<figure class="cell"', none.index("Most abnormal cells")) == 6
    assert "makeViewer" in none  # pan and zoom
