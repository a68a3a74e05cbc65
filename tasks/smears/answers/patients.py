"""Confirm or refuse a patient's call by a few cells, and count again by persons' answers.

The machine suspects, and a person confirms. The person first reads the most probable called cells,
because one certain parasite confirms a patient, and then randomly drawn ones, whose share of
parasites is the estimate for those that nobody has read.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy.special import betaincinv

from tasks.smears.answers.agreement import Answers
from tasks.smears.answers.sheets import UNSURE, ordered
from tasks.smears.counting.call import Call, percent_text, range_text
from tasks.smears.counting.interpretation import LEVEL, ErrorRates, corrected, interval, upper_bound
from tasks.smears.counting.rates import NODES, Rate

MOST_READ = 10  # cells of a patient: one key press each
FIRST = 5  # of these, the most probable parasites
NEVER = Rate(0.0, 0.0, 0.0, 0.0, 0, 0, np.zeros(NODES))  # of an error that does not happen


class PatientAnswer(StrEnum):
    """The persons' answer on a patient."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    UNSURE = "unsure"
    OPEN = "open"


@dataclass(frozen=True)
class Suspect:
    """A patient whose call a person has to confirm.

    ``called`` are the called cells by digest, most probable first; ``others`` are the next most
    probable, which are read if few were called. ``cells`` counts the red cells read.
    """

    name: str
    call: str
    called: tuple[str, ...]
    others: tuple[str, ...]
    cells: int

    @property
    def order(self) -> list[str]:
        """List the cells that a person reads, by digest, in the order of display."""
        drawn = ordered(self.called[FIRST:], self.name)
        return [*self.called[:FIRST], *drawn, *self.others][:MOST_READ]


@dataclass(frozen=True)
class Confirmation:
    """The persons' answer on a patient: of ``read`` cells, ``parasites`` are parasites.

    Shares are in [0, 1]; they are None with too few answers, or if error rates are unknown.
    """

    answer: PatientAnswer
    read: int
    parasites: int
    call: str | None = None
    parasitaemia: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def figure(self) -> str | None:
        """Write the parasitaemia with its 95% interval; None where it is unknown."""
        if self.parasitaemia is None or self.low is None or self.high is None:
            return None
        range_ = range_text(100 * self.low, 100 * self.high)
        return f"{percent_text(100 * self.parasitaemia)} ({range_})"


def confirm(
    suspect: Suspect, answers: Answers, positive: str, rates: ErrorRates | None, wanted: float
) -> Confirmation:
    """Interpret answers on a patient's cells.

    Persons are assumed to be right: a cell that they call healthy does not count, so no false
    positives remain. Misses stay the same, because nobody has read the cells that were not called.
    Among called cells that nobody has read, the share of parasites is assumed to be that of the
    randomly drawn ones; the bounds combine those of that share (95%, Jeffreys) and of the count.
    ``answers`` are the majority's, by the cell's digest, and ``positive`` is that of a parasite.
    ``rates`` are of the counting threshold; ``wanted`` is the parasitaemia (a share) that a
    negative call excludes.
    """
    order = suspect.order
    read = [image for image in order if image in answers]
    parasites = sum(answers[image] == positive for image in read)
    answer = PatientAnswer.OPEN
    if parasites:
        answer = PatientAnswer.CONFIRMED
    elif len(read) == len(order) and order:
        unsure = any(answers[image] == UNSURE for image in read)
        answer = PatientAnswer.UNSURE if unsure else PatientAnswer.REFUSED
    confirmation = Confirmation(answer, len(read), parasites)
    if (
        answer not in (PatientAnswer.CONFIRMED, PatientAnswer.REFUSED)
        or rates is None
        or not suspect.cells
    ):
        return confirmation
    count, low, high = _true_calls(suspect, answers, positive)
    sure = replace(rates, false=NEVER)
    middle = corrected(count, suspect.cells, sure)
    bounds = interval(low, suspect.cells, sure)[0], interval(high, suspect.cells, sure)[1]
    call = Call.POSITIVE
    if answer == PatientAnswer.REFUSED:
        excluded = upper_bound(high, suspect.cells, sure) <= wanted
        call = Call.NEGATIVE if excluded else Call.INDETERMINATE
    middle = min(max(middle, bounds[0]), bounds[1])
    return replace(confirmation, call=call, parasitaemia=middle, low=bounds[0], high=bounds[1])


def _true_calls(suspect: Suspect, answers: Answers, positive: str) -> tuple[int, int, int]:
    """Count the cells that are parasites, with the bounds of that count.

    Other cells that a person calls parasites count too: some were set aside.
    """
    read = [image for image in suspect.called if image in answers]
    known = sum(answers.get(image) == positive for image in (*suspect.called, *suspect.others))
    unread = len(suspect.called) - len(read)
    if not unread:
        return known, known, known
    drawn = [image for image in suspect.called[FIRST:] if image in answers]
    hits = sum(answers[image] == positive for image in drawn)
    tail = (1 - LEVEL) / 2
    a, b = hits + 0.5, len(drawn) - hits + 0.5
    low, middle, high = betaincinv(a, b, [tail, 0.5, 1 - tail])
    return (
        known + round(unread * float(middle)),
        known + int(unread * float(low)),
        known + int(np.ceil(unread * float(high))),
    )
