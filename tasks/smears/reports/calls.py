"""Make the rows of slides and patients from their counts: corrected counts, limits, the call.

Whole red cells count: those whose log-odds of "parasitized" reach the counting threshold, whose
error rates are known. White cells and copies of images do not count. Most parasites are unlike the
other cells of their slide, so abnormal cells count as others do: the error rates were counted with
them. At a laboratory that nobody knows sure parasites alone count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks import limits, types
from tasks.detector.verdict import binomial_p_value
from tasks.reports import image_columns
from tasks.smears.counting import call, error_rates
from tasks.smears.counting.negative import Measured
from tasks.smears.reports.parasitaemia import DensityClass, density_class
from tasks.smears.reports.slide_reasons import SlideReason, slide_reasons

# Counts on such a slide are meaningless. A slide of few cells is readable: the interval shows how
# little its count says.
UNREADABLE = (
    *(SlideReason.IMPLAUSIBLE, SlideReason.TURNING, SlideReason.TOGETHER),
    *(SlideReason.MANY_FAILED, SlideReason.MANY_UNCERTAIN, SlideReason.SEVERAL_PATIENTS),
)
# A commissioned laboratory's own error rates were counted on slides with as many uncertain cells.
UNREADABLE_AT_LABORATORY = tuple(each for each in UNREADABLE if each != SlideReason.MANY_UNCERTAIN)

ROWS = 1024  # in memory together, as Python objects


@dataclass(frozen=True)
class Counting:
    """The rules by which cells are counted and slides judged.

    ``answers`` have the error rates and what counts mean by them; ``sure`` is for sure parasites
    alone, and ``elsewhere`` makes the same for a laboratory of which nothing is known. ``alpha`` is
    the detector's level. Without ``measured`` slides every laboratory is new, and nobody is
    negative. A ``commissioned`` detector has learned a laboratory. See also `slide_reasons`.
    """

    answers: call.Interpreter
    elsewhere: Callable[[], call.Interpreter]
    red_cells_per_microlitre: float
    alpha: float
    sure: call.Interpreter
    measured: Measured | None = None
    commissioned: bool = False
    detectable: float = limits.DETECTABLE_PERCENT
    tolerated: float = limits.TOLERATED

    @property
    def thresholds(self) -> tuple[float, float]:
        """Return the least log-odds at which a cell counts, for few and for many parasites.

        Without error rates, both are the diagnosis' threshold.
        """
        rates = self.answers.rates
        if rates is None:
            return error_rates.DIAGNOSIS, error_rates.DIAGNOSIS
        return rates.counting.log_odds, rates.dense.log_odds

    @property
    def named_thresholds(self) -> dict[str, float]:
        """Name the thresholds, with that of sure parasites, as the grouping takes them."""
        few, many = self.thresholds
        rates = self.sure.rates
        return {"few": few, "many": many, "sure": few if rates is None else rates.counting.log_odds}

    def is_new(self, reasons: list[str]) -> bool:
        """Return whether a slide with these reasons for review is of a laboratory nobody knows."""
        return self.measured is None or SlideReason.SHIFTED in reasons

    def covers(self, slide: Mapping[str, Any]) -> bool:
        """Return whether a slide is as large and sharp as those the rates were measured on."""
        return self.measured is not None and self.measured.covers(slide)

    def faults(self, reasons: list[str]) -> tuple[str, ...]:
        """Select the reasons for review that make a slide unreadable."""
        # At a new laboratory a diagnosis is less certain, and its error rates say so.
        known = self.commissioned and self.answers.rates is not None
        unreadable = UNREADABLE_AT_LABORATORY if known or self.is_new(reasons) else UNREADABLE
        return tuple(reason for reason in reasons if reason in unreadable)


def slides_called(
    counts: pa.Table, counting: Counting, made_by: Mapping[str, Any], schema: pa.Schema
) -> pa.Table:
    """Judge and call slides, from rows of their counts; ``made_by`` stands in every row."""

    def called(row: dict[str, Any]) -> dict[str, Any]:
        row["abnormal_p_value"] = binomial_p_value(row["abnormal"], row["scored"], counting.alpha)
        reasons = slide_reasons(
            row, counting.alpha, detectable=counting.detectable, tolerated=counting.tolerated
        )
        verdict = types.Verdict.REVIEW if reasons else types.Verdict.ACCEPT
        judged = {"verdict": verdict, "review_reasons": reasons, **made_by}
        row |= {"is_new": counting.is_new(reasons), "is_covered": counting.covers(row)}
        return row | judged | _called(row, counting, counting.faults(reasons))

    return _each(counts, called, schema)


def patients_called(
    counts: pa.Table, counting: Counting, made_by: Mapping[str, Any], schema: pa.Schema
) -> pa.Table:
    """Call patients, from rows of the counts of their readable slides.

    ``slide_faults`` of a row are those of all its slides; ``made_by`` stands in every row.
    """

    def called(row: dict[str, Any]) -> dict[str, Any]:
        faults = () if row["slides_read"] else tuple(row["slide_faults"])
        return {**row, **_called(row, counting, faults), **made_by}

    return _each(counts, called, schema)


def judged_slides(slides: pa.Table, counting: Counting) -> pa.Table:
    """Make the table of which slides can be read, as the grouping by patient takes it."""
    reasons = slides["review_reasons"].to_pylist()
    faults = [counting.faults(each) for each in reasons]
    return pa.table(
        {
            "slide_id": slides["slide_id"].cast(pa.string()),
            "is_readable": [not each for each in faults],
            "is_new": [counting.is_new(each) for each in reasons],
            "is_covered": [
                counting.covers(each)
                for each in slides.select(["cell_size", "sharpness"]).to_pylist()
            ],
            "faults": pa.array(faults, pa.list_(pa.string())),
        }
    )


def _each(counts: pa.Table, called: Any, schema: pa.Schema) -> pa.Table:
    """Make rows of a schema from rows of counts, some at a time; missing columns are null."""
    made = [
        image_columns.table_of([called(row) for row in batch.to_pylist()], schema)
        for batch in counts.to_batches(ROWS)
    ]
    return pa.concat_tables([schema.empty_table(), *made])


def _called(
    row: Mapping[str, Any], counting: Counting, unreadable: tuple[str, ...]
) -> dict[str, Any]:
    """Make the columns of the corrected count, its limits and the call."""
    counts, cells = (row["called_of_few"], row["called_of_many"]), row["cells_read"]
    thresholds = counting.thresholds
    if row["is_new"] and counting.sure.rates is not None:
        counts = row["called_of_sure"], row["called_of_sure"]
        thresholds = (counting.named_thresholds["sure"],) * 2
        answer = counting.sure.of(*counts, cells, unreadable)
        if answer.call != call.Call.UNREADABLE:
            answer = call.of_new(answer, counting.elsewhere().of(*counts, cells), counts[0], cells)
    else:
        answer = counting.answers.of(*counts, cells, unreadable)
        if not unreadable:
            others = [
                answers.of(row[name], row[name], row[cells])
                for name, cells, answers in (
                    ("all_suspects", "diagnosed", counting.answers),
                    ("sure_suspects", "suspectable", counting.sure),
                    # Whoever is suspected before the laboratory is known stays suspected.
                    ("called_of_sure", "cells_read", counting.sure),
                )
            ]
            answer = call.with_suspects(answer, *others)
    answer = call.unless_doubted(
        *(answer, row["look_parasitized"], row["diagnosed"], counting.measured),
        is_covered=row["is_covered"],
    )
    used = int(answer.by == call.CountedBy.DENSE)
    answer = call.without_figures(answer)
    bounds = {"": answer.parasitaemia, "_low": answer.low, "_high": answer.high}
    per_microlitre = counting.red_cells_per_microlitre
    return {
        "cells_called": counts[used],
        "counting_threshold": thresholds[used],
        **{f"corrected{name or '_percent'}": _scaled(v, 100.0) for name, v in bounds.items()},
        **{
            f"parasites_per_microlitre{name}": _scaled(v, per_microlitre)
            for name, v in bounds.items()
        },
        "limit_of_blank_percent": _scaled(answer.limit_of_blank, 100.0),
        "limit_of_detection_percent": _scaled(answer.limit_of_detection, 100.0),
        "none_above_percent": _scaled(answer.none_above, 100.0),
        "cells_needed": answer.needed,
        "density_class": _density(answer),
        "call": answer.call,
        "call_reasons": list(answer.reasons),
    }


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _density(answer: call.Meaning) -> DensityClass | None:
    """Classify the density of a positive call; a negative one has none seen, others are None."""
    if answer.call == call.Call.NEGATIVE:
        return DensityClass.NONE_SEEN
    if answer.call != call.Call.POSITIVE or answer.parasitaemia is None:
        return None
    return density_class(100 * answer.parasitaemia)
