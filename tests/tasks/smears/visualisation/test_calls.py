"""The page answers first what a laboratory asks: patients by their call, and what each one says."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from tasks.smears.answers.patients import Confirmation, PatientAnswer
from tasks.smears.counting.call import call_text
from tasks.smears.counting.interpretation import KnownRates
from tasks.smears.reports.called_cells import patient_of
from tasks.smears.visualisation.batch_page import batch_page
from tasks.smears.visualisation.calls import call_of, positive_first
from tasks.smears.visualisation.page import TEMPLATES, environment
from tests.support.nights import by_patients, image_rows, night_of
from tests.support.pages import EVIL, Page
from tests.support.rates import RATES


def page_of(patients: int, rates: KnownRates | None = RATES) -> str:
    return batch_page(night_of(by_patients(2000, patients, EVIL), rates=rates))


def test_the_page_begins_with_how_many_patients_have_which_call() -> None:
    page = page_of(5)
    calls = re.findall(r'<strong>(\d+)</strong> <a href="#patients">(\w+)</a>', page)
    assert [call for _, call in calls] == [
        *("positive", "suspected", "negative", "indeterminate", "unreadable")
    ]
    assert sum(int(count) for count, _ in calls) == 5
    assert page.index('id="light"') < page.index('class="calls"') < page.index('id="called"')
    shown = Counter(re.findall(r'<td class="text"><span class="call (\w+)">', page))
    assert {call: int(count) for count, call in calls if count != "0"} == shown


def test_a_patient_leads_to_its_cells_and_nothing_breaks_out() -> None:
    page = Page(page_of(3))
    ids = {each["id"] for _, each in page.elements if each.get("id")}
    links = {each["href"] for each in page.of("a")}
    places = {link for link in links if link and link.startswith(("#patient-", "#slide-"))}
    assert len(places) == 3
    assert "#patient-0" in places
    assert {link.removeprefix("#") for link in places} <= ids
    assert not [each for each in page.of("img") if each.get("src") == "x"]


def test_without_error_rates_every_patient_is_indeterminate_and_has_no_figure() -> None:
    page = page_of(4, rates=None)
    assert '<strong>4</strong> <a href="#patients">indeterminate</a>' in page
    assert "error rates unknown here" in page
    assert 'class="range" role="img"' not in page


def test_a_negative_patient_has_no_parasites_to_read_but_the_most_that_can_be() -> None:
    row = {
        "call": "negative", "call_reasons": [], "corrected_percent": 0.29, "corrected_low": 0.0,
        "corrected_high": 0.4, "parasites_per_microlitre": 14_000.0, "none_above_percent": 0.36,
        "parasites_per_microlitre_high": 20_000.0, "limit_of_blank_percent": 1.7,
        "cells_called": 58, "cells_read": 19_082, "density_class": "none seen",
        "parasitized": 58, "set_aside": {},
    }  # fmt: skip
    found = call_of(row)
    assert (found["corrected"], found["range"], found["density"]) == ("≤ 0.36%", "", "≤ 18,000")
    # Whoever is undecided has no parasitaemia, least of all one of 0.
    found = call_of(row | {"call": "indeterminate", "corrected_percent": None})
    assert (found["corrected"], found["density"]) == ("–", "–")


def test_a_positive_patient_s_parasitaemia_is_said_to_mean_something() -> None:
    page = page_of(5)
    meant = re.findall(
        r'<td class="text"><span class="call positive">positive</span><small>([^<]+)</small>', page
    )
    assert meant
    assert all(re.match(r"(below 2%|\d+% (to|or))", each) for each in meant)


def test_an_interval_lies_on_its_axis() -> None:
    row = {
        "corrected_percent": 100.0,
        "corrected_low": 0.0,
        "corrected_high": 100.0,
        "limit_of_blank_percent": 0.02,
    }
    plot = environment(TEMPLATES).get_template("cells.html").module.interval(row)
    assert 'd="M4.0 9.0H146.0"' in plot
    assert 'aria-label="100%, 0 to 100%; limit of blank 0.02%"' in plot


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            {"call": "positive", "corrected_percent": 0.42, "corrected_low": 0.21,
             "corrected_high": 0.8, "parasites_per_microlitre": 21_000.0},
            "parasites, about 0.42% of red cells (0.21 to 0.8%), 21,000 parasites/µL: "
            "9 of 4,000 cells counted as parasitized",
        ),
        (
            {"call": "indeterminate", "call_reasons": ["too few cells"], "cells_needed": 5200,
             "none_above_percent": 1.3},
            "no answer: 9 of 4,000 cells counted as parasitized, as healthy blood may have; "
            "parasitaemia may be up to 1.3%; 5,200 cells would decide",
        ),
        (
            {"call": "indeterminate", "call_reasons": ["error rates too high"],
             "cells_needed": None, "none_above_percent": 1.3},
            "no answer: 9 of 4,000 cells counted as parasitized, as healthy blood may have; "
            "parasitaemia may be up to 1.3%, and more cells would not help: healthy slides "
            "differ too much",
        ),
        (
            {"call": "indeterminate", "call_reasons": ["error rates too high"],
             "cells_needed": None, "none_above_percent": None},
            "no answer: healthy cells are counted as often as parasites here; 9 of 4,000 cells "
            "counted as parasitized",
        ),
        ({"call": "unreadable", "call_reasons": ["shifted"]}, "no answer: shifted"),
    ],
)  # fmt: skip
def test_a_call_is_one_sentence(told: dict[str, object], sentence: str) -> None:
    assert call_text({"cells_called": 9, "cells_read": 4000} | told) == sentence


REFUSED = Confirmation(PatientAnswer.REFUSED, 10, 0, "negative", 0.0, 0.0, 0.004)
CONFIRMED = Confirmation(PatientAnswer.CONFIRMED, 10, 1)


def test_an_answer_stands_beside_the_call_with_what_follows_from_it() -> None:
    night = night_of(by_patients(400, 2), rates=RATES)
    assert night.patients is not None
    one, other = map(patient_of, positive_first(night.patients).to_pylist())
    view = replace(night, answers={one: REFUSED, other: CONFIRMED}, answered=64 * "e")
    page = batch_page(view)
    said = Page(page).words
    assert "Persons have answered: 1 confirmed, 1 refused." in said
    assert "0 of 10 cells are parasites: negative, 0% (0 to 0.4%)" in said
    assert "1 of 10 cells is a parasite" in said
    assert page.count("<strong>refused</strong>") == 2  # in the table, and at the patient's cells
    assert f'<meta name="slidewatch-answers" content="{64 * "e"}">' in page


def test_where_nobody_has_answered_the_page_does_not_speak_of_persons() -> None:
    page = batch_page(night_of(image_rows(40), rates=RATES))
    assert "slidewatch-answers" not in page
    assert '<th scope="col" class="text">persons</th>' not in page
