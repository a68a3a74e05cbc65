"""The page opens each positive or indeterminate patient to the cells behind his call."""

import io
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks.reports.called_cells import patient_of
from tasks.visualisation.batch_page import batch_page
from tasks.visualisation.patients.called import (
    PATIENTS_OPENED,
    Called,
    cells_each,
    opened,
)
from tasks.visualisation.patients.calls import positive_first
from tests.support.nights import image_rows, night_of, shown_field
from tests.support.pages import EVIL, Page
from tests.support.rates import RATES

MB = 1_000_000


def smooth(side: int) -> bytes:
    """A picture as busy as a smear is."""
    noise = np.random.default_rng(0).integers(0, 256, (14, 14, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(file, "WEBP")
    return file.getvalue()


def called_of(patients: pa.Table) -> Called:
    """As many cells of each opened patient as the page shows, the first of them called."""
    rows = opened(positive_first(patients))
    each = cells_each(len(rows))
    cells = {
        patient_of(row): [
            {
                "uri": f"/photos/{EVIL}.jpg#{i}-{j}", "image_id": f"{100 * i + j:064x}",
                "slide_id": EVIL, "chance": 1 - 0.01 * j, "called": j == 0, "abnormality": 0.3,
                "p_value": 0.2,
            }
            for j in range(each)
        ]
        for i, row in enumerate(rows)
    }  # fmt: skip
    every = [cell["uri"] for some in cells.values() for cell in some]
    return Called(cells, dict.fromkeys(every, smooth(224)))


def page_of(rows: int = 2000, patients: int = 5, **options: Any) -> str:
    table = image_rows(
        rows,
        slide_id=[f"s{i % (2 * patients)}" for i in range(rows)],
        patient_id=[f"p{i % patients}" for i in range(rows)],
    )
    return batch_page(night_of(table, rates=RATES, called=called_of, **options))


def test_a_click_on_a_positive_patient_leads_to_his_cells_most_probable_first() -> None:
    page = page_of()
    (first,) = re.findall(r'<th scope="row" class="name"><a href="#(patient-0)">p\d</a>', page)
    (cells,) = re.findall(rf'<div id="{first}">(.*?)</details>', page, re.DOTALL)
    assert re.findall(r"<strong>parasitized</strong> ([^<]+)<", cells)[:3] == [
        "&gt; 99.9%", "99.0%", "98.0%",
    ]  # fmt: skip
    assert cells.count("not called") == cells.count("<figure") - 1
    assert cells.count("its corners marked") == cells.count("<figure") == cells_each(5)


def test_a_place_that_cannot_be_drawn_says_why_and_names_stay_text() -> None:
    def without(patients: pa.Table) -> Called:
        made = called_of(patients)
        return Called(made.cells, dict.fromkeys(made.places, f"gone {EVIL}"))

    table = image_rows(500, slide_id=["s"] * 500, patient_id=["p"] * 500)
    found = Page(batch_page(night_of(table, rates=RATES, called=without)))
    assert not [each for each in found.of("img") if each.get("src") == "x"]
    labels = [str(each.get("aria-label")) for each in found.of("div")]
    assert len([each for each in labels if each.startswith("No field of")]) == cells_each(1)


def test_of_many_patients_the_first_are_opened_and_others_lead_to_their_slides() -> None:
    page = page_of(patients=2 * PATIENTS_OPENED)
    assert page.count('<details class="patient"') == PATIENTS_OPENED
    assert len(re.findall(r'<a href="#slide-\d+">p\d+</a>', page)) > 0


@pytest.mark.parametrize("patients", [1, 40])
def test_a_page_of_100_000_cells_with_all_it_can_show_stays_below_5_megabytes(
    patients: int,
) -> None:
    shown = [shown_field(i) for i in range(2)]
    page = page_of(
        100_000,
        patients,
        fields=[each.row for each in shown],
        shown=shown,
        see=lambda _: smooth(128),
    )
    assert len(page.encode()) < 5 * MB
