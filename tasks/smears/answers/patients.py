"""Confirm or refuse a patient's call by a few cells, and count again by persons' answers.

The machine suspects, and a person confirms. The person first reads the most probable called cells,
because one certain parasite confirms a patient, and then randomly drawn ones, whose share of
parasites is the estimate for those that nobody has read.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from tasks.smears.answers.agreement import Answers
from tasks.smears.answers.sheets import UNSURE, ordered
from tasks.smears.counting.call import Call, percent_text, range_text
from tasks.smears.counting.interpretation import LEVEL, ErrorRates, corrected, interval, upper_bound
from tasks.smears.counting.rates import NODES, Rate
from tasks.words import counted, verb

MOST_READ = 10  # cells of a patient: one key press each
TAIL = (1 - LEVEL) / 2
FIRST = 5  # of these, the most probable parasites
NEVER = Rate(0.0, 0.0, 0.0, 0.0, 0, 0, np.zeros(NODES))  # of an error that does not happen


class PatientAnswer(StrEnum):
    """The persons' answer on a patient."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    UNSURE = "unsure"
    DISPUTED = "disputed"
    OPEN = "open"


DECIDED = (PatientAnswer.CONFIRMED, PatientAnswer.REFUSED)


@dataclass(frozen=True)
class Suspect:
    """A patient whose call a person has to confirm.

    ``called`` are the called cells by digest, most probable first; ``others`` are the next most
    probable, which are read if few were called. ``cells`` counts the red cells read. Of all
    ``red_cells``, whole or not, ``looking`` look parasitized, whether they count or not.
    ``is_covered``: error rates were measured on slides like the patient's. ``elsewhere`` are other
    cells of the patient that some person called a parasite.
    """

    name: str
    call: str
    called: tuple[str, ...]
    others: tuple[str, ...]
    cells: int
    looking: int
    red_cells: int
    is_covered: bool
    elsewhere: tuple[str, ...] = ()

    @property
    def order(self) -> list[str]:
        """List the cells that a person reads, by digest, in the order of display."""
        drawn = ordered(self.called[FIRST:], self.name)
        return [*self.called[:FIRST], *drawn, *self.others][:MOST_READ]


@dataclass(frozen=True)
class Confirmation:
    """The persons' answer on a patient: of ``read`` cells, ``parasites`` are parasites.

    Shares are in [0, 1]; they are None with too few answers, or if error rates are unknown.
    ``readers`` have read cells of the patient, the last one at ``read_at``; of a decided patient,
    those who said so. ``marked`` are the digests of the parasites.
    """

    answer: PatientAnswer
    read: int
    parasites: int
    call: str | None = None
    parasitaemia: float | None = None
    low: float | None = None
    high: float | None = None
    readers: tuple[str, ...] = ()
    read_at: datetime | None = None
    marked: tuple[str, ...] = ()

    @property
    def by(self) -> str:
        """Write who has read, and on which day; empty where nobody has."""
        return f"{' and '.join(self.readers)}, {self.read_at:%Y-%m-%d}" if self.read_at else ""

    @property
    def found(self) -> str:
        """Write how many of the cells that were read are parasites, or that readers differ."""
        n, cells = self.parasites, counted(self.read, "cell")
        if self.answer == PatientAnswer.DISPUTED:
            return f"readers differ on some of {cells}"
        return f"{n} of {cells} {verb(n, 'is a parasite', 'are parasites')}"

    @property
    def figure(self) -> str | None:
        """Write the parasitaemia with its 95% interval; None where it is unknown."""
        if self.parasitaemia is None or self.low is None or self.high is None:
            return None
        range_ = range_text(100 * self.low, 100 * self.high)
        return f"{percent_text(100 * self.parasitaemia)} ({range_})"


def confirm(
    suspect: Suspect,
    answers: Answers,
    positive: str,
    rates: ErrorRates | None,
    wanted: float,
    disputed: Collection[str] = (),
) -> Confirmation:
    """Interpret answers on a patient's cells.

    Persons are assumed to be right: a cell that they call healthy does not count, so no false
    positives remain. Misses stay the same. Among called cells that nobody has read, the share of
    parasites is that of randomly drawn ones; bounds combine its (95%, Jeffreys) and the count's.

    Cells that look parasitized but were not called may be many more: abnormal, cut or less sure
    ones. With the share of the confirmed ones among them, they give a second estimate over all red
    cells, and the higher one counts. A refused patient is negative only where slides like these
    were measured, and even if all unread ones of that share are parasites.
    ``answers`` are the majority's, by the cell's digest, and ``positive`` is that of a parasite;
    ``disputed`` cells were read without a majority.
    ``rates`` are of the counting threshold; ``wanted`` is the parasitaemia (a share) that a
    negative call excludes.
    """
    order = suspect.order
    shown = [*order, *suspect.elsewhere]
    read = [image for image in shown if image in answers]
    marked = tuple(image for image in read if answers[image] == positive)
    differing = [image for image in shown if image in disputed]
    answer = PatientAnswer.OPEN
    if marked:
        answer = PatientAnswer.CONFIRMED
    elif differing:
        answer = PatientAnswer.DISPUTED
    elif order and all(image in answers for image in order):
        unsure = any(answers[image] == UNSURE for image in read)
        answer = PatientAnswer.UNSURE if unsure else PatientAnswer.REFUSED
    confirmation = Confirmation(answer, len(read) + len(differing), len(marked), marked=marked)
    if answer not in DECIDED or rates is None or not suspect.cells:
        return confirmation
    called = _true_calls(suspect, answers, positive)
    seen = _true_looking(suspect, answers, positive, called)
    sure, cells = replace(rates, false=NEVER), suspect.cells
    everything = max(suspect.red_cells, cells)
    low, high = interval(called.low, cells, sure)[0], interval(called.high, cells, sure)[1]
    middle = min(max(corrected(called.middle, cells, sure), low), high)
    low = max(low, _share(seen.low, everything, TAIL))
    middle = max(low, middle, seen.middle / everything)
    high = max(high, _share(seen.high, everything, 1 - TAIL))
    call = Call.POSITIVE
    if answer == PatientAnswer.REFUSED:
        bound = max(upper_bound(called.high, cells, sure), high)
        excluded = suspect.is_covered and bound <= wanted
        if not excluded:  # then nobody knows the parasitaemia
            return replace(confirmation, call=Call.INDETERMINATE)
        call = Call.NEGATIVE
    return replace(confirmation, call=call, parasitaemia=middle, low=low, high=high)


class Counted(NamedTuple):
    """A number of parasites, with its bounds (95%)."""

    low: int
    middle: int
    high: int


def _true_calls(suspect: Suspect, answers: Answers, positive: str) -> Counted:
    """Count the called cells that are parasites: those alone were counted at the threshold."""
    read = [image for image in suspect.called if image in answers]
    known = sum(answers[image] == positive for image in read)
    drawn = [image for image in suspect.called[FIRST:] if image in answers]
    hits = sum(answers[image] == positive for image in drawn)
    return _with_unread(known, len(suspect.called) - len(read), hits, len(drawn))


def _true_looking(suspect: Suspect, answers: Answers, positive: str, called: Counted) -> Counted:
    """Count parasites among all cells that look parasitized, with those called or marked elsewhere.

    The read ones are the most probable, so their share is a high estimate of the others', and the
    lower bound has none of these.
    """
    read = [image for image in suspect.others if image in answers]
    hits = sum(answers[image] == positive for image in read)
    unread = max(0, suspect.looking - len(suspect.called) - len(read))
    seen = {*suspect.others, *suspect.elsewhere}.difference(suspect.called)
    known = sum(answers.get(image) == positive for image in seen)
    _, middle, high = _with_unread(known, unread, hits, len(read))
    return Counted(called.low + known, called.middle + middle, called.high + high)


def _with_unread(known: int, unread: int, hits: int, drawn: int) -> Counted:
    """Add ``unread`` cells to ``known`` parasites, by the share of ``hits`` among ``drawn``."""
    if not unread:
        return Counted(known, known, known)
    low, middle, high = (_share(hits, drawn, level) for level in (TAIL, 0.5, 1 - TAIL))
    return Counted(
        known + int(unread * low), known + round(unread * middle), known + math.ceil(unread * high)
    )


def _share(hits: int, drawn: int, level: float) -> float:
    """Compute a bound of the share that some hits among drawn ones show (Jeffreys' interval)."""
    return float(betaincinv(hits + 0.5, drawn - hits + 0.5, level))
