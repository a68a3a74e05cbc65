"""Call a slide or a patient: positive, suspected, negative, indeterminate or unreadable.

The texts that say what a call means are for pages, never for tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np

from tasks.smears.counting import interpretation
from tasks.smears.counting.interpretation import DENSE, KnownRates, corrected
from tasks.smears.counting.negative import Measured
from tasks.words import counted, verb

# Red cells that a positive call needs: two called of seven are not a parasitaemia of 28%. At a new
# laboratory a clump of sickle cells was 4 sure parasites of 40 cells.
LEAST_CELLS, LEAST_CELLS_NEW = 30, 200
# The share of red cells that look like sure parasites in sick people's blood without any: Howell-
# Jolly bodies, stippling, platelets on cells. Of 32 patients left out the worst has 22 of 656.
INCLUSIONS = np.full(1, 0.03)
MOST_SURVIVED = 0.5  # parasitaemia, a share: more is rather something that is no blood
LEAST_SHOWN = 1e-4  # percent: less is written as 0

NO_PICTURES = "No pictures found: slidewatch reads PNG, JPEG, TIFF, BMP, WebP and HEIC"
NO_CELLS = (
    "No red cells found: slidewatch reads photographs of thin blood smears, taken through a 100x "
    "lens, and cells that were cut out of them"
)


class Call(StrEnum):
    """The call of a slide or a patient, the most urgent first.

    It is suspected if more cells than in healthy blood look parasitized, but do not count: the
    laboratory is new, or the cells are abnormal. A person who reads them decides.
    """

    POSITIVE = "positive"
    SUSPECTED = "suspected"
    INDETERMINATE = "indeterminate"
    NEGATIVE = "negative"
    UNREADABLE = "unreadable"


CONFIRMED = (Call.POSITIVE, Call.SUSPECTED)  # calls that a person confirms or refuses


class CountedBy(StrEnum):
    """The threshold of a corrected count."""

    COUNTING = "counting"
    DENSE = "dense"


class CallReason(StrEnum):
    """A reason why a call is neither positive nor negative; a slide's reasons may be added."""

    NO_CELLS = "no red cells"
    RATES_UNKNOWN = "error rates unknown"
    TOO_FEW = "too few cells"
    RATES_TOO_HIGH = "error rates too high"
    NEW = "new laboratory"
    SET_ASIDE = "suspects that do not count"
    NOT_MEASURED = "coarser or less sharp than measured slides"


@dataclass(frozen=True)
class Meaning:
    """The meaning of a count: shares in [0, 1], None if the error rates do not apply.

    ``by`` names the threshold whose count was corrected; ``limit_of_detection`` is also None if no
    parasitaemia is certain to be seen, and ``needed`` if no number of cells is enough for a
    negative call; ``none_above`` is the one-sided 95% bound that a negative call states.
    """

    call: Call
    reasons: tuple[str, ...]
    parasitaemia: float | None = None
    low: float | None = None
    high: float | None = None
    limit_of_blank: float | None = None
    limit_of_detection: float | None = None
    none_above: float | None = None
    needed: int | None = None
    by: str | None = None


class Interpreter:
    """Interpret counts of parasites; equal counts are computed once.

    Error rates are None if unknown; a negative call excludes a parasitaemia (a share) above
    ``wanted``.
    """

    def __init__(self, rates: KnownRates | None, wanted: float) -> None:
        self.rates, self.wanted = rates, wanted
        self._limits: dict[int, tuple[int, float | None]] = {}
        self._answers: dict[tuple[int, int, int], Meaning] = {}

    def of(self, called: int, dense: int, cells: int, unreadable: tuple[str, ...] = ()) -> Meaning:
        """Interpret a count.

        A count above the limit of blank is positive, if enough cells were read. Below it the slide
        is negative if its upper bound is at most the wanted one, otherwise indeterminate. From
        `DENSE` on, a positive slide's parasitaemia comes from the threshold for many parasites.

        Of the red ``cells`` that were read, some are ``called`` at the counting threshold, and
        ``dense`` at that for many parasites. ``unreadable`` are faults of the slide as a whole,
        which make any figure worthless.
        """
        if unreadable or not cells:
            return Meaning(Call.UNREADABLE, unreadable or (CallReason.NO_CELLS,))
        if self.rates is None:
            return Meaning(Call.INDETERMINATE, (CallReason.RATES_UNKNOWN,))
        rates = self.rates
        if not rates.counting.tell:
            return Meaning(Call.INDETERMINATE, (CallReason.RATES_TOO_HIGH,))
        key = called, dense, cells
        if key not in self._answers:
            self._answers[key] = self._answer(*key, rates)
        return self._answers[key]

    @cached_property
    def needed(self) -> int | None:
        """Compute the number of cells for the wanted limit of detection; None if there is none."""
        known = self.rates
        return None if known is None else interpretation.cells_needed(self.wanted, known.counting)

    def _answer(self, called: int, dense: int, cells: int, known: KnownRates) -> Meaning:
        rates = known.counting
        if cells not in self._limits:
            limit = interpretation.detection_limit(cells, rates)
            self._limits[cells] = interpretation.blank_count(cells, rates.false.nodes), limit
        blank, limit = self._limits[cells]
        bound = interpretation.upper_bound(called, cells, rates)
        by, count, basis = CountedBy.COUNTING, called, rates
        call, reasons = Call.POSITIVE, tuple[str, ...]()
        if called <= blank:
            call = Call.NEGATIVE if bound <= self.wanted else Call.INDETERMINATE
        elif cells < LEAST_CELLS:
            call, reasons = Call.INDETERMINATE, (CallReason.TOO_FEW,)
        elif corrected(called, cells, rates) >= DENSE and known.dense.tell:
            by, count, basis = CountedBy.DENSE, dense, known.dense
        low, high = interpretation.interval(count, cells, basis)
        if call == Call.INDETERMINATE and not reasons:
            # With the needed number of cells no count at the limit of blank is in doubt.
            few = self.needed is not None
            reasons = (CallReason.TOO_FEW if few else CallReason.RATES_TOO_HIGH,)
        return Meaning(
            call,
            reasons,
            min(max(corrected(count, cells, basis), low), high),
            low,
            high,
            corrected(blank, cells, rates),
            limit,
            bound,
            self.needed,
            by,
        )


def of_new(known: Meaning, elsewhere: Meaning, sure: int, cells: int) -> Meaning:
    """Make the call of a slide or patient of a laboratory that nobody has commissioned.

    Laboratories differ more than slides of one, and most in cells that are not quite sure: so sure
    parasites alone count. They are positive only where they are so by the wide error rates of a
    laboratory of which nothing is known, are more than `INCLUSIONS`, among enough cells, and are
    what a patient survives; and they are never negative. Healthy cells may be called more often,
    or parasites less often, than anybody has seen. ``known`` is the meaning of the count at fitted
    laboratories, ``elsewhere`` that by the wide rates; of the red ``cells``, some are ``sure``.
    """
    is_far = cells >= LEAST_CELLS_NEW and sure > interpretation.blank_count(cells, INCLUSIONS)
    if elsewhere.call == Call.POSITIVE and is_far and (elsewhere.parasitaemia or 0) < MOST_SURVIVED:
        return elsewhere
    suspected = Call.POSITIVE in (known.call, elsewhere.call)
    call = Call.SUSPECTED if suspected else Call.INDETERMINATE
    return replace(elsewhere, call=call, reasons=(CallReason.NEW,))


def with_suspects(answer: Meaning, of_all: Meaning, *of_sure: Meaning) -> Meaning:
    """Make the call of a slide or patient whose parasites may be among the cells set aside.

    Cut and covered cells are called more often than the whole ones, on which error rates were
    counted. So of them only sure parasites make a suspicion, but a negative call must hold for all.
    ``answer`` is the meaning of the cells that count, ``of_all`` that of all red cells, cut,
    covered and very strange ones too, and ``of_sure`` those of sure ones among all but the very
    strange, and among whole ones.
    """
    if answer.call in (Call.POSITIVE, Call.SUSPECTED):
        return answer
    if Call.POSITIVE in (each.call for each in of_sure):
        return replace(answer, call=Call.SUSPECTED, reasons=(CallReason.SET_ASIDE,))
    if answer.call == Call.NEGATIVE and of_all.call != Call.NEGATIVE:
        return replace(answer, call=Call.INDETERMINATE, reasons=(CallReason.SET_ASIDE,))
    return answer


def unless_doubted(
    answer: Meaning, looks: int, cells: int, measured: Measured | None, *, is_covered: bool
) -> Meaning:
    """Make a negative call undecided unless its slides were covered by measurements.

    Of the red ``cells`` that were diagnosed, ``looks`` look parasitized, whether they count or not.
    ``measured`` is None if the user neither commissioned a laboratory nor fitted the detector;
    slides as large and sharp as the measured ones are covered.
    """
    if answer.call != Call.NEGATIVE:
        return answer
    if measured is None:
        reason = CallReason.NEW
    elif not is_covered:
        reason = CallReason.NOT_MEASURED
    elif looks > measured.most_healthy(cells):
        reason = CallReason.SET_ASIDE
    else:
        return answer
    return replace(answer, call=Call.INDETERMINATE, reasons=(reason,))


def without_figures(answer: Meaning) -> Meaning:
    """Remove the parasitaemia of an undecided answer: nobody knows it, least of all that it is 0.

    The upper bound stays only where the count alone did not decide.
    """
    if answer.call in (Call.POSITIVE, Call.NEGATIVE):
        return answer
    by_count = {CallReason.TOO_FEW, CallReason.RATES_TOO_HIGH}.issuperset(answer.reasons)
    bound = answer.none_above if answer.call == Call.INDETERMINATE and by_count else None
    return replace(answer, parasitaemia=None, low=None, high=None, none_above=bound, by=None)


def needs_text(calls: Mapping[str, int]) -> str:
    """Write what the patients of a batch need, from their number by call; empty without patients.

    >>> needs_text({"positive": 2, "suspected": 1, "negative": 12, "indeterminate": 4})
    '3 patients wait for a person (2 positive, 1 suspected), 4 are undecided, 12 are negative'
    """
    waiting = [f"{calls[each]:,} {each}" for each in Call if each in CONFIRMED and calls.get(each)]
    number = sum(calls.get(each, 0) for each in CONFIRMED)
    parts = []
    if number:
        who = f"{counted(number, 'patient')} {verb(number, 'waits', 'wait')} for a person"
        parts.append(f"{who} ({', '.join(waiting)})")
    for each, one, many in (
        (Call.INDETERMINATE, "is undecided", "are undecided"),
        (Call.UNREADABLE, "is unreadable", "are unreadable"),
        (Call.NEGATIVE, "is negative", "are negative"),
    ):
        if n := calls.get(each, 0):
            who = f"{n:,}" if parts else counted(n, "patient")
            parts.append(f"{who} {verb(n, one, many)}")
    return ", ".join(parts)


def by_call(patients: Mapping[str, int]) -> dict[str, int]:
    """Sort the counts of patients, the most urgent call first.

    >>> by_call({"negative": 9, "positive": 2})
    {'positive': 2, 'negative': 9}
    """
    return {call.value: patients[call] for call in Call if call in patients}


def percent_text(percent: float) -> str:
    """Write a parasitaemia to two digits.

    >>> [percent_text(value) for value in (0.0123, 4.26, 100.0, 1e-9)]
    ['0.012%', '4.3%', '100%', '0%']
    """
    if percent < LEAST_SHOWN:
        return "0%"
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%"


def range_text(low: float, high: float) -> str:
    """Write an interval of parasitaemia.

    >>> range_text(0.0, 0.31), range_text(1.2, 4.56)
    ('0 to 0.31%', '1.2 to 4.6%')
    """
    return f"{percent_text(low).removesuffix('%')} to {percent_text(high)}"


def density_text(parasites: float) -> str:
    """Write parasites/µL to two digits.

    >>> density_text(51_234.0), density_text(37.2)
    ('51,000', '37')
    """
    digits = max(0, len(str(int(parasites))) - 2)
    return f"{int(round(parasites, -digits)):,}"


def suspects_text(row: Mapping[str, Any]) -> str:
    """Write how many cells of a slide or patient look parasitized, and what became of them.

    >>> row = {"parasitized": 43, "set_aside": {"abnormal": 33, "cut": 5}, "cells_called": 5}
    >>> suspects_text(row)
    '43 look parasitized: 5 counted, 33 unlike their slide, 5 cut off or touching others'
    """
    aside, looks = dict(row["set_aside"]), row["parasitized"]
    abnormal, cut = aside.get("abnormal", 0), aside.get("cut", 0)
    called = min(row["cells_called"], looks)
    parts = [
        f"{n:,} {what}"
        for n, what in (
            (called, "counted"),
            (abnormal, "unlike their slide"),
            (cut, "cut off or touching others"),
            (looks - called - abnormal - cut, "not sure enough"),
        )
        if n > 0 and row.get("call") != Call.UNREADABLE  # where nothing counts
    ]
    return f"{looks:,} {verb(looks, 'looks', 'look')} parasitized{': ' if parts else ''}" + (
        ", ".join(parts)
    )


def photograph_text(night: Mapping[str, Any], patient: Mapping[str, Any]) -> str:
    """Write in a sentence what one photograph shows, from its rows of batch and patient."""
    if not night["scored"]:
        return NO_CELLS
    call = str(patient["call"]).capitalize()
    if patient["call"] == Call.UNREADABLE:
        call += f" ({', '.join(patient['call_reasons'])})"
    if patient["call"] == Call.POSITIVE:
        call += f", about {percent_text(patient['corrected_percent'])}"
    return f"{call}: of {counted(night['scored'], 'cell')} {suspects_text(patient)}"


def call_text(row: Mapping[str, Any]) -> str:
    """Write in a sentence what a row of the slide or patient report says about parasites.

    >>> row = {"call": "negative", "none_above_percent": 0.31, "cells_called": 1}
    >>> call_text(row | {"cells_read": 5000}).partition(": ")[2]
    '1 of 5,000 cells counted as parasitized, as in healthy blood'
    """
    reasons: Sequence[str] = row.get("call_reasons") or ()
    cells = (
        f"{row['cells_called']:,} of {counted(row['cells_read'], 'cell')} counted as parasitized"
    )
    if row["call"] == Call.POSITIVE:
        return (
            f"parasites, about {percent_text(row['corrected_percent'])} of red cells "
            f"({range_text(row['corrected_low'], row['corrected_high'])}), "
            f"{density_text(row['parasites_per_microlitre'])} parasites/µL: {cells}"
        )
    if row["call"] == Call.NEGATIVE:
        bound = percent_text(row["none_above_percent"])
        return f"no more than {bound} with 95% confidence: {cells}, as in healthy blood"
    if row["call"] == Call.UNREADABLE:
        return f"no answer: {', '.join(reasons)}"
    if row["call"] == Call.SUSPECTED:
        return f"a person must decide: {suspects_text(row)}"
    if CallReason.SET_ASIDE in reasons:
        return f"no answer: {suspects_text(row)}"
    for reason, why in (
        (CallReason.NEW, " at a laboratory that is not known:"),
        (
            CallReason.NOT_MEASURED,
            ": cells are smaller or less sharp than where errors were measured;",
        ),
        (CallReason.RATES_UNKNOWN, ": error rates unknown here;"),
    ):
        if reason in reasons:
            return f"no answer{why} {suspects_text(row)}"
    if row["none_above_percent"] is None:
        return f"no answer: healthy cells are counted as often as parasites here; {cells}"
    bound = percent_text(row["none_above_percent"])
    sentence = f"no answer: {cells}, as healthy blood may have; parasitaemia may be up to {bound}"
    if row.get("cells_needed") is None:
        return f"{sentence}, and more cells would not help: healthy slides differ too much"
    return f"{sentence}; {counted(row['cells_needed'], 'cell')} would decide"
