"""Measure answers: how many, how fast, how far readers agree, and what the machine missed."""

from itertools import combinations

from pydantic import BaseModel

from flows.smears.commands.review.session import Session
from flows.smears.stages.answers import Suspects
from tasks.smears.answers.agreement import Agreement, consensus, differing, kappa, sensitivity
from tasks.smears.answers.patients import Confirmation, PatientAnswer
from tasks.words import counted


class ToldFigure(BaseModel):
    """A figure of the answers, with its 95% interval if it has one, and its number of cells."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    cells: int

    @property
    def text(self) -> str:
        """Write the figure for a person."""
        if self.value is None:
            return "unknown so far"
        if self.low is None:
            return f"{self.value:.3g}"
        return (
            f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}; {counted(self.cells, 'cell')})"
        )


class PatientRow(BaseModel):
    """The answer of persons on a patient, with the machine's call."""

    name: str
    machine: str
    persons: Confirmation

    @property
    def text(self) -> str:
        """Write the answer for a person."""
        persons = self.persons
        sentence = f"machine: {self.machine}; persons: {persons.answer} ({persons.found})"
        return sentence + (f", hence {persons.call}, {persons.figure}" if persons.figure else "")


def patient_answers(suspects: Suspects) -> list[PatientRow]:
    """List the patients on whom persons have answered."""
    return [
        PatientRow(name=each.name, machine=each.call, persons=confirmation)
        for each, confirmation in suspects.confirmations()
        if confirmation.read
    ]


def figures(session: Session) -> list[ToldFigure]:
    """Measure the answers of a session."""
    by_reader = session.sampled_by_reader()
    groups = {image: row["patient_id"] for image, row in session.cells.items()}
    rows = [
        ToldFigure(
            name=f"{reader}: seconds per cell, {len(answers):,} of {len(session.cells):,} read",
            value=session.seconds(reader) or None,  # a sheet does not say
            cells=len(answers),
        )
        for reader, answers in by_reader.items()
    ]
    for one, two in combinations(by_reader, 2):
        agreed = kappa(by_reader[one], by_reader[two], groups)
        rows.append(_told(f"{one} and {two}: Cohen's kappa", agreed))
    truth = consensus(by_reader)
    classes = {image: each for image, each in truth.items() if each in session.card.classes}
    diagnosed = {image: row["diagnosis"] for image, row in session.cells.items()}
    rows.append(_told("persons and machine: Cohen's kappa", kappa(classes, diagnosed, groups)))
    missed = sensitivity(
        truth,
        diagnosed,
        {image: row["flagged"] for image, row in session.cells.items()},
        session.sample.of,
        groups,
        session.card.classes[0],
    )
    name = f"share of all {session.card.classes[0]} cells that the machine caught"
    rows.append(_told(name, missed))
    n = len(differing(session.by_reader()))
    rows.append(ToldFigure(name="cells on which readers differ", value=float(n), cells=n))
    return rows


def patient_figures(suspects: Suspects) -> list[ToldFigure]:
    """Measure the machine's calls and persons' confirmations together, and how long they take."""
    confirmations = suspects.confirmations()
    answers = {each.name: confirmation.answer for each, confirmation in confirmations}
    asked = [each for each in suspects.asked if answers[each.name] != PatientAnswer.OPEN]
    if not asked:
        return []
    rows = [
        ToldFigure(name=f"patients {answer}", value=float(n), cells=n)
        for answer in PatientAnswer
        if answer != PatientAnswer.OPEN and (n := sum(each == answer for each in answers.values()))
    ]
    minutes = sum(map(suspects.seconds, asked)) / 60 or None
    rows.append(ToldFigure(name="minutes spent on these patients", value=minutes, cells=len(asked)))
    return rows


def _told(name: str, figure: Agreement | None) -> ToldFigure:
    if figure is None:
        return ToldFigure(name=name, value=None, cells=0)
    about = {"value": figure.value, "low": figure.low, "high": figure.high}
    return ToldFigure(name=name, cells=figure.count, **about)
