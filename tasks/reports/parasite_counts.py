"""Count parasites by slide and by patient, and make columns of the results.

Whole red cells that are not abnormal for their slide count: those whose log-odds of "parasitized"
reach the counting threshold, whose error rates are known. Abnormal cells, white cells, cells cut by
a border and copies of images do not count.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.counting.call import Answer, Answers, Call
from tasks.counting.expected import ExpectedErrors, ProbabilitySums
from tasks.counting.threshold import DIAGNOSIS
from tasks.detector.probabilities import UNCHANGED, Adaptation
from tasks.reports.image_columns import (
    Pair,
    Provenance,
    flags,
    is_red_cell,
    numbers_of,
    pairs_of,
)
from tasks.reports.parasitaemia import DensityClass, density_of_percent
from tasks.reports.slide_reasons import SlideReason
from tasks.types import Float

LOG_ODDS = "log_odds"  # of "parasitized", a column of no report
SHIFTED = "shifted"  # the reason not to believe expected errors
OTHER_LABORATORY = "other laboratory"
SHIFTED_SHARE = 0.1  # of a night's cells
# Counts on such a slide are meaningless. A slide of few cells is readable: the interval shows how
# little its count says.
UNREADABLE = (
    *(SlideReason.IMPLAUSIBLE, SlideReason.SHIFTED, SlideReason.TOGETHER),
    *(SlideReason.MANY_FAILED, SlideReason.MANY_UNCERTAIN, SlideReason.SEVERAL_PATIENTS),
)

# A laboratory's own error rates were counted on slides with as many uncertain cells.
UNREADABLE_AT_LABORATORY = tuple(each for each in UNREADABLE if each != SlideReason.MANY_UNCERTAIN)


@dataclass(frozen=True)
class Counting:
    """Hold how cells are counted: error rates, and the red-cell count for densities.

    Thresholds and their error rates apply to log-odds before a laboratory adapts them; expected
    errors use the laboratory's adapted probabilities, if it has any. ``unreadable`` are the reasons
    that exclude a slide.
    """

    answers: Answers
    red_cells_per_microlitre: float
    adaptation: Adaptation | None = None
    unreadable: tuple[SlideReason, ...] = UNREADABLE

    @property
    def thresholds(self) -> tuple[float, float]:
        """Return the least log-odds at which a cell counts, for few and for many parasites.

        Without error rates, both are the diagnosis' threshold.
        """
        rates = self.answers.rates
        if rates is None:
            return DIAGNOSIS, DIAGNOSIS
        return rates.counting.log_odds, rates.dense.log_odds


@dataclass(frozen=True)
class Counted:
    """Numbers of red cells read and called parasitized, and sums of probabilities; (G,) each.

    ``dense`` counts cells called by the threshold for many parasites.
    """

    read: NDArray[np.int64]
    called: NDArray[np.int64]
    dense: NDArray[np.int64]
    sums: ProbabilitySums

    @classmethod
    def of(
        cls,
        log_odds: Float,
        thresholds: tuple[float, float],
        group: NDArray[np.intp],
        groups: int,
        adaptation: Adaptation = UNCHANGED,
    ) -> "Counted":
        """Count cells (n,) by their group."""
        called, dense = (log_odds >= threshold for threshold in thresholds)
        adapted = adaptation.of(log_odds)
        with np.errstate(over="ignore"):
            probability = 1 / (1 + np.exp(-adapted))
        return cls(
            np.bincount(group, minlength=groups).astype(np.int64),
            np.bincount(group[called], minlength=groups).astype(np.int64),
            np.bincount(group[dense], minlength=groups).astype(np.int64),
            ProbabilitySums.of(probability, adapted >= DIAGNOSIS, group, groups),
        )

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(
            self.read + other.read,
            self.called + other.called,
            self.dense + other.dense,
            self.sums + other.sums,
        )

    def grouped(self, group: NDArray[np.intp], groups: int) -> "Counted":
        """Sum groups into fewer, larger ones; group -1 is left out."""
        kept = group >= 0

        def added(values: Float) -> Float:
            return np.asarray(np.bincount(group[kept], values[kept], minlength=groups), np.float64)

        counts = (self.read, self.called, self.dense)
        read, called, dense = (added(v.astype(np.float64)).astype(np.int64) for v in counts)
        sums = ProbabilitySums(*(added(each) for each in vars(self.sums).values()))
        return Counted(read, called, dense, sums)


class CountTally:
    """Count image rows by slide and patient; the rows may come in any parts.

    Memory grows with the number of slides, not of images.
    """

    def __init__(self, counting: Counting) -> None:
        self._counting = counting
        self._numbers: dict[Pair, int] = {}
        self._parts: Counted = Counted.of(np.empty(0), (0.0, 0.0), np.empty(0, np.intp), 0)

    def count(self, rows: pa.Table) -> None:
        """Count image rows, with their log-odds; rows without a slide count as one slide."""
        pairs, group = pairs_of(rows)
        numbers = [self._numbers.setdefault(pair, len(self._numbers)) for pair in pairs]
        places = np.asarray(numbers, np.intp)
        log_odds = log_odds_of(rows)
        read = is_read(rows) & np.isfinite(log_odds)
        thresholds, adaptation = self._counting.thresholds, self._counting.adaptation
        part = Counted.of(
            log_odds[read], thresholds, group[read], len(places), adaptation or UNCHANGED
        )
        size = len(self._numbers)
        before = self._parts.grouped(np.arange(len(self._parts.read)), size)
        self._parts = before + part.grouped(places, size)

    def slide_columns(self, slides: pa.Table, made_by: Provenance) -> pa.Table:
        """Append columns of counts to rows of the report on slides."""
        names = slides["slide_id"].to_pylist()
        place = {name: number for number, name in enumerate(names)}
        group = np.asarray([place[slide] for slide, _ in self._numbers], np.intp)
        counted = self._parts.grouped(group, len(names))
        shifted = slides["shifted"].to_pylist()
        doubts = [self._doubt(made_by, shifted=bool(each)) for each in shifted]
        columns = self._columns(counted, self._unreadable(slides), doubts)
        for name, values in columns.items():
            slides = slides.append_column(name, values)
        return slides

    def patients(self, slides: pa.Table, made_by: Provenance) -> pa.Table:
        """Make one row per patient, sorted by name, from the readable slides.

        A slide without a patient counts as one; images with neither are the last row.
        """
        self._add_without_cells(slides)
        wrong = dict(zip(slides["slide_id"].to_pylist(), self._unreadable(slides), strict=True))
        shifted = dict(
            zip(slides["slide_id"].to_pylist(), slides["shifted"].to_pylist(), strict=True)
        )
        of_patient: dict[Pair, list[int]] = {}
        for (slide, patient), number in self._numbers.items():
            key: Pair = (slide, None) if patient is None else (None, patient)
            of_patient.setdefault(key, []).append(number)
        keys = sorted(
            of_patient, key=lambda key: [(each is None, each or "") for each in key[::-1]]
        )
        group = np.full(len(self._numbers), -1, np.intp)
        pairs = list(self._numbers)
        reasons, doubts, slide_counts = [], [], []
        for place, key in enumerate(keys):
            own = of_patient[key]
            readable = [number for number in own if not wrong[pairs[number][0]]]
            group[readable] = place
            told = sorted({reason for n in own for reason in wrong[pairs[n][0]]})
            reasons.append(() if readable else tuple(told))
            doubts.append(self._doubt(made_by, shifted=any(shifted[pairs[n][0]] for n in readable)))
            slide_counts.append((len(own), len(readable)))
        return pa.table(
            {
                "patient_id": pa.array([patient for _, patient in keys], pa.string()),
                "slide_id": pa.array([slide for slide, _ in keys], pa.string()),
                "slides": pa.array([own for own, _ in slide_counts], pa.int64()),
                "slides_read": pa.array([read for _, read in slide_counts], pa.int64()),
                **self._columns(self._parts.grouped(group, len(keys)), reasons, doubts),
                **made_by.to_columns(len(keys)),
            }
        )

    def _unreadable(self, slides: pa.Table) -> list[tuple[str, ...]]:
        """List, for rows of the report on slides, the reasons that make a slide unreadable."""
        return [
            tuple(reason for reason in reasons if reason in self._counting.unreadable)
            for reasons in slides["review_reasons"].to_pylist()
        ]

    def _add_without_cells(self, slides: pa.Table) -> None:
        """Add the slides that have fields of view, but no cells."""
        known = {slide for slide, _ in self._numbers}
        names, patients = slides["slide_id"].to_pylist(), slides["patient_id"].to_pylist()
        for pair in zip(names, patients, strict=True):
            if pair[0] not in known:
                self._numbers[pair] = len(self._numbers)
        places = np.arange(len(self._parts.read))
        self._parts = self._parts.grouped(places, len(self._numbers))

    def night(self, slides: pa.Table, made_by: Provenance) -> tuple[ExpectedErrors, str | None]:
        """Estimate the errors of the night; the text says why they cannot be believed, if so."""
        shifted = dict(
            zip(slides["slide_id"].to_pylist(), slides["shifted"].to_pylist(), strict=True)
        )
        whole = self._parts.grouped(np.zeros(len(self._numbers), np.intp), 1)
        far = np.asarray([bool(shifted[slide]) for slide, _ in self._numbers], bool)
        cells = int(self._parts.read[far].sum())
        many = cells > 0 and cells >= SHIFTED_SHARE * whole.read[0]
        return whole.sums.expected(0), self._doubt(made_by, shifted=many)

    def _doubt(self, made_by: Provenance, *, shifted: bool) -> str | None:
        """Return why expected errors cannot be believed; None if they can.

        Probabilities were calibrated on cells of fitted laboratories, unless the laboratory has
        adapted them.
        """
        if made_by.laboratory is not None and self._counting.adaptation is None:
            return OTHER_LABORATORY
        return SHIFTED if shifted else None

    def _columns(
        self,
        counted: Counted,
        unreadable: Sequence[tuple[str, ...]],
        doubts: Sequence[str | None],
    ) -> dict[str, pa.Array]:
        """Make the columns that slides and patients share."""
        numbers = (counted.called, counted.dense, counted.read)
        given = zip(*(each.tolist() for each in numbers), unreadable, strict=True)
        answers = [self._counting.answers.of(*each) for each in given]
        groups = range(len(answers))
        return {
            "cells_read": pa.array(counted.read),
            "cells_called": pa.array(counted.called),
            "cells_called_dense": pa.array(counted.dense),
            **{
                name: pa.repeat(pa.scalar(threshold, pa.float64()), len(answers))
                for name, threshold in zip(
                    ("counting_threshold", "dense_threshold"),
                    self._counting.thresholds,
                    strict=True,
                )
            },
            **_of_answers(answers, self._counting),
            **_of_expected([counted.sums.expected(group) for group in groups], doubts),
        }


def log_odds_of(rows: pa.Table) -> Float:
    """Read log-odds (n,) of "parasitized"; NaN if there is no such class."""
    if LOG_ODDS in rows.column_names:
        return numbers_of(rows, LOG_ODDS)
    return np.full(rows.num_rows, np.nan)


def is_read(rows: pa.Table) -> NDArray[np.bool_]:
    """Mark the image rows (n,) whose cells count: red, whole, and not abnormal."""
    scored, abnormal, _ = flags(rows)
    judged = np.asarray(rows["abnormality"].is_valid().to_numpy(), bool)
    return np.asarray(scored & judged & ~abnormal & is_red_cell(rows))


def _of_answers(answers: Sequence[Answer], counting: Counting) -> dict[str, pa.Array]:
    """Make columns of corrected counts, limits and calls."""

    def scaled(values: Iterable[float | None], factor: float) -> pa.Array:
        return pa.array([None if v is None else factor * v for v in values], pa.float64())

    bounds = {
        "": [a.parasitaemia for a in answers],
        "_low": [a.low for a in answers],
        "_high": [a.high for a in answers],
    }
    limits = {
        "limit_of_blank_percent": [a.limit_of_blank for a in answers],
        "limit_of_detection_percent": [a.limit_of_detection for a in answers],
        "none_above_percent": [a.none_above for a in answers],
    }
    cells = counting.red_cells_per_microlitre
    return {
        "corrected_by": pa.array([a.by for a in answers], pa.string()),
        **{f"corrected{name or '_percent'}": scaled(v, 100.0) for name, v in bounds.items()},
        **{f"parasites_per_1000{name}": scaled(v, 1000.0) for name, v in bounds.items()},
        **{f"parasites_per_microlitre{name}": scaled(v, cells) for name, v in bounds.items()},
        **{name: scaled(values, 100.0) for name, values in limits.items()},
        "cells_needed": pa.array([a.needed for a in answers], pa.int64()),
        "corrected_density_class": pa.array([_density(a) for a in answers], pa.string()),
        "call": pa.array([a.call for a in answers], pa.string()),
        "call_reasons": pa.array([list(a.reasons) for a in answers], pa.list_(pa.string())),
    }


def _density(answer: Answer) -> DensityClass | None:
    """Classify the density of a positive call; a negative one has none seen, others are None."""
    if answer.call == Call.NEGATIVE:
        return DensityClass.NONE_SEEN
    if answer.call != Call.POSITIVE or answer.parasitaemia is None:
        return None
    return density_of_percent(100 * answer.parasitaemia)


def _of_expected(
    expected: Sequence[ExpectedErrors], doubts: Sequence[str | None]
) -> dict[str, pa.Array]:
    """Make columns of the errors expected from probabilities; null without cells."""
    names = list(ExpectedErrors.__dataclass_fields__)
    return {
        **{
            f"expected_{name}": pa.array(
                np.asarray([getattr(each, name) for each in expected], np.float64), from_pandas=True
            )
            for name in names
        },
        "expected_doubt": pa.array(doubts, pa.string()),
    }
