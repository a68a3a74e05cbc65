"""Persons' answers on patients stand on the page next to the machine's calls."""

from dataclasses import replace

from tasks.answers.patients import Answer, Confirmation
from tasks.reports.called_cells import patient_of
from tasks.visualisation.batch_page import batch_page
from tasks.visualisation.patients.calls import positive_first
from tasks.visualisation.patients.persons import persons_answer
from tests.support.nights import image_rows, night_of
from tests.support.pages import Page
from tests.support.rates import RATES

REFUSED = Confirmation(Answer.REFUSED, 10, 0, "negative", 0.0, 0.0, 0.004)
CONFIRMED = Confirmation(Answer.CONFIRMED, 10, 1)


def text_of(page: str) -> str:
    return " ".join(" ".join(Page(page).text).split())


def test_an_answer_stands_beside_the_call_with_what_follows_from_it() -> None:
    table = image_rows(
        400,
        slide_id=[f"s{i % 2}" for i in range(400)],
        patient_id=[f"p{i % 2}" for i in range(400)],
    )
    night = night_of(table, rates=RATES)
    assert night.patients is not None
    one, other = map(patient_of, positive_first(night.patients))
    view = replace(night, answers={one: REFUSED, other: CONFIRMED}, answered=64 * "e")
    page = batch_page(view)
    said = text_of(page)
    assert "Persons have answered on some of these patients: 1 confirmed, 1 refused." in said
    assert "0 of 10 cells are parasites: negative, 0% (0 to 0.4%)" in said
    assert "1 of 10 cells is a parasite" in said
    assert page.count("<strong>refused</strong>") == 2  # in the table, and at the patient's cells
    assert f'<meta name="slidewatch-answers" content="{64 * "e"}">' in page


def test_where_nobody_has_answered_the_page_does_not_speak_of_persons() -> None:
    page = batch_page(night_of(image_rows(40), rates=RATES))
    assert "slidewatch-answers" not in page
    assert '<th scope="col" class="text">persons</th>' not in page
    assert persons_answer(None) is None
