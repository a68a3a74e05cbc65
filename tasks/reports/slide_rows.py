"""Turn image rows into one row per slide: parasitaemia with its interval, reasons for review.

A slide's row says whether its cells are abnormal together (another stain, out of focus). Only red
cells count for parasitaemia; for cells cut out of fields of view, the column ``kind`` says which
are red.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.detector.verdict import parse_reasons
from tasks.limits import DETECTABLE_PERCENT, TOLERATED
from tasks.reports.field_limits import FieldReason
from tasks.reports.image_columns import (
    COLOURS,
    Provenance,
    as_map,
    coded,
    failed_rows,
    failure_reason,
    flags,
    is_parasitized,
    is_red_cell,
    is_repeated,
    is_true,
    is_white_cell,
    numbers_of,
    share,
    verdicts,
)
from tasks.reports.parasitaemia import (
    binomial_p_value,
    cells_needed,
    density_class,
    detectable_percent,
    negative_call,
    parasitaemia,
    per_1000,
)
from tasks.reports.slide_medians import SlideMedians
from tasks.reports.slide_reasons import OF_SHIFT, SHIFTS, SlideReason
from tasks.types import FieldKind, Float

# About one slide in a thousand exceeds this if its patient is like the calibration patients: the
# rate of abnormal cells varies between patients by about the rate itself
# (tests/benchmarks/README.md).
ABNORMAL_TOGETHER = 0.25
# Cells of a slide resemble each other: if five of them count as one independent cell, this is a
# chance of about one in fifty.
ABNORMAL_P_VALUE = 1e-6
# A tenth of the cells missing can move the count of a slide by more than its interval says.
MANY_FAILED = 0.1
# With fewer cells, even all abnormal ones could be chance at an alpha of .05. A field of view shows
# a dozen, so a higher limit would flag every field; the interval shows the uncertainty.
FEW_CELLS = 5
# A few in a hundred cells are below the least probability if images are as in training.
MANY_UNCERTAIN = 0.25

# Medians are computed from bins this wide, so that a slide's memory does not grow with its cells.
ABNORMALITY_BIN = 0.05
P_VALUE_BINS_A_DECADE = 20


# Each of these counts is a column in the array of `SlideTally`.
OF_CELLS = (
    *("cells", "scored", "red_cells", "ordinary", "white_cells"),
    *("parasitized", "parasitized_ordinary", "abnormal", "uncertain", "coloured", "repeated"),
)
OF_FIELDS = ("fields", "fields_read", "fields_excluded", "fields_for_review", "cells_at_border")
COUNTED = (*OF_CELLS, *OF_FIELDS)


class SlideTally:
    """Count image rows by slide; the rows may come in any order and in any parts.

    Memory grows with the number of slides, not of images. ``detectable`` is the parasitaemia in
    percent that a slide must have enough red cells to show, for a negative call. ``tolerated`` is
    the share of a slide's fields that may be beyond a limit, or have failed, before the slide goes
    to review; empty and thick fields do not count.
    """

    def __init__(
        self,
        alpha: float,
        *,
        detectable: float = DETECTABLE_PERCENT,
        tolerated: float = TOLERATED,
    ) -> None:
        self._alpha, self._detectable, self._tolerated = alpha, detectable, tolerated
        self._numbers: dict[str | None, int] = {}
        self._patients: list[tuple[str, ...]] = []  # two are enough to know that there are several
        self._failures: dict[int, Counter[str]] = defaultdict(Counter)  # by number of the slide
        self._exclusions: dict[int, Counter[str]] = defaultdict(Counter)
        self._beyond: dict[int, Counter[str]] = defaultdict(Counter)
        self._shifts = [SHIFTS.empty_table()]
        self._counts = np.zeros((0, len(COUNTED)), np.int64)
        self._colours = np.zeros((0, len(COLOURS)))  # sums over cells
        self._abnormality = SlideMedians(ABNORMALITY_BIN)
        self._p_value = SlideMedians(1 / P_VALUE_BINS_A_DECADE)  # its decade

    def count(self, rows: pa.Table) -> None:
        """Count image rows; rows without a slide count as one slide."""
        codes, names = coded(rows["slide_id"])
        numbers = self._numbers_of(names)
        colours = np.stack([numbers_of(rows, name) for name in COLOURS], axis=1)
        coloured = np.asarray(~np.isnan(colours).any(axis=1))
        for column, which in enumerate(_counted(rows, coloured)):
            self._counts[numbers, column] += np.bincount(codes[which], minlength=len(names))
        for column, each in enumerate(colours[coloured].T):
            self._colours[numbers, column] += np.bincount(codes[coloured], each, len(names))
        patients, known = coded(rows["patient_id"])
        for pair in np.unique(codes * len(known) + patients).tolist():
            self._name_patient(numbers[pair // len(known)], known[pair % len(known)])
        for row, reason in failed_rows(rows):
            self._failures[numbers[codes[row]]][reason] += 1
        of_rows = np.asarray(numbers, np.int64)[codes]
        p, score = numbers_of(rows, "p_value"), numbers_of(rows, "abnormality")
        with np.errstate(divide="ignore", invalid="ignore"):
            decades = np.floor(np.log10(p) * P_VALUE_BINS_A_DECADE)
        self._p_value.count(of_rows, decades)
        self._abnormality.count(of_rows, np.floor(score / ABNORMALITY_BIN))

    def count_fields(self, rows: pa.Table) -> None:
        """Count rows of the report on fields; a slide may have fields and no cells."""
        columns = ("slide_id", "patient_id", "kind", "failure", "review_reason", "cells_at_border")
        names, patients, kinds, failures, reasons, cut = (rows[n].to_pylist() for n in columns)
        read = np.asarray([kind == FieldKind.FIELD for kind in kinds], bool)
        at_border = np.asarray([n or 0 for n in cut], np.int64)
        review = np.asarray([reason is not None for reason in reasons], bool)
        counted = (np.ones(len(names), bool), read, ~read, review, at_border)
        numbers = np.asarray(self._numbers_of(names), np.int64)
        added = np.stack([np.asarray(each, np.int64) for each in counted], axis=1)
        np.add.at(self._counts[:, -len(OF_FIELDS) :], numbers, added)
        told = zip(numbers.tolist(), patients, kinds, failures, reasons, strict=True)
        for number, patient, kind, failure, reason in told:
            self._name_patient(number, patient)
            if found := parse_reasons(reason):
                self._beyond[number].update(found)
            if kind != FieldKind.FIELD:
                why = kind or failure_reason(failure or "") or FieldReason.FAILED
                self._exclusions[number][why] += 1

    def count_shifts(self, rows: pa.Table) -> None:
        """Keep rows of `SHIFTS`."""
        self._shifts.append(rows.filter(pc.is_valid(rows["shift"])))

    def table(self, made_by: Provenance) -> pa.Table:
        """Make one row per slide, sorted by name; images without a slide are the last row.

        ``abnormal_p_value`` is from a one-sided exact binomial test of the number of abnormal cells
        against ``alpha``. The test assumes independent cells, but cells of one slide depend on each
        other, so it is too small: only a strict level together with a gross excess makes a slide
        ``abnormal together``.
        """
        names = sorted(self._numbers, key=lambda name: (name is None, name or ""))
        order = [self._numbers[name] for name in names]
        patients = [self._patients[number] for number in order]
        none: Counter[str] = Counter()
        failures, exclusions, beyond = (
            [every.get(number, none) for number in order]
            for every in (self._failures, self._exclusions, self._beyond)
        )
        shifts = self._largest_shifts(names)
        counts = dict(zip(COUNTED, self._counts[order].T, strict=True))
        surprise = binomial_p_value(counts["abnormal"], counts["scored"], self._alpha)
        several = [
            name is not None and len(own) > 1 for name, own in zip(names, patients, strict=True)
        ]
        reasons = self._reasons(counts, surprise, shifts, np.asarray(several, bool), beyond)
        return pa.table(
            {
                "slide_id": pa.array(names, pa.string()),
                "patient_id": pa.array(
                    [own[0] if len(own) == 1 else None for own in patients], pa.string()
                ),
                "failures": as_map(failures),
                **_of_cells(counts, surprise),
                **_of_fields(exclusions, counts),
                **self._of_density(counts),
                **self._of_scores(order),
                **{name: shifts[name] for name in OF_SHIFT},
                **_of_colours(self._colours[order], counts["coloured"]),
                "verdict": verdicts(reasons),
                "review_reasons": pa.array(reasons, pa.list_(pa.string())),
                **made_by.to_columns(len(names)),
            }
        )

    def _numbers_of(self, names: list[str | None]) -> list[int]:
        """Return the rows of slides in the arrays, and enlarge the arrays for new slides."""
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in names]
        new = len(self._numbers) - len(self._patients)
        self._patients += [()] * new
        # At least doubled, so that growing takes linear time in the number of slides.
        if len(self._counts) < len(self._patients):
            more = ((0, new + len(self._patients)), (0, 0))
            self._counts, self._colours = np.pad(self._counts, more), np.pad(self._colours, more)
        return numbers

    def _name_patient(self, number: int, patient: str | None) -> None:
        known = self._patients[number]
        if patient is not None and len(known) < 2 and patient not in known:
            self._patients[number] = (*known, patient)

    def _largest_shifts(self, names: Sequence[str | None]) -> pa.Table:
        """Return a row of `SHIFTS` for each slide: of several patients, the most shifted one's."""
        rows = pa.concat_tables(self._shifts)
        rows = rows.take(pc.sort_indices(rows, [("shift", "descending")]))
        places = [*enumerate(rows["slide_id"].to_pylist())]
        first = {name: place for place, name in places[::-1]}
        return rows.take(pa.array([first.get(name) for name in names], pa.int64())).combine_chunks()

    def _of_scores(self, order: list[int]) -> dict[str, pa.Array]:
        """Make columns of medians of slides in this order."""
        abnormality, decade = (
            each.of(len(self._patients)) for each in (self._abnormality, self._p_value)
        )
        p_value = [None if each is None else min(1.0, 10.0**each) for each in decade]
        return {
            "abnormality_median": pa.array([abnormality[n] for n in order], pa.float64()),
            "p_value_median": pa.array([p_value[n] for n in order], pa.float64()),
        }

    def _of_density(self, counts: dict[str, NDArray[np.int64]]) -> dict[str, pa.Array]:
        """Make columns that interpret the parasitaemia, or the absence of parasites."""
        pairs = list(zip(counts["parasitized"].tolist(), counts["red_cells"].tolist(), strict=True))
        called = [None if found else negative_call(n, self._detectable) for found, n in pairs]
        return {
            "density_class": pa.array([density_class(*pair) for pair in pairs], pa.string()),
            "detectable_percent": pa.array(
                [detectable_percent(cells) for _, cells in pairs], pa.float64()
            ),
            "negative_call": pa.array(called, pa.string()),
            "negative_call_percent": pa.array(np.full(len(pairs), self._detectable), pa.float64()),
        }

    def _reasons(
        self,
        counts: dict[str, NDArray[np.int64]],
        surprise: Float,
        shifts: pa.Table,
        several: NDArray[np.bool_],
        beyond: Sequence[Counter[str]],
    ) -> list[list[str]]:
        """List the reasons for a person to look at each slide."""
        cells, scored, abnormal = (counts[name] for name in ("cells", "scored", "abnormal"))
        limit = max(ABNORMAL_TOGETHER, self._alpha)
        found = {
            SlideReason.IMPLAUSIBLE: is_true(shifts["implausible"]),
            SlideReason.SHIFTED: is_true(shifts["shifted"]),
            SlideReason.TOGETHER: (surprise <= ABNORMAL_P_VALUE) & (abnormal >= limit * scored),
            SlideReason.MANY_FAILED: (cells > 0) & (cells - scored >= MANY_FAILED * cells),
            SlideReason.FEW_CELLS: scored < FEW_CELLS,
            SlideReason.MANY_UNCERTAIN: (counts["uncertain"] > 0)
            & (counts["uncertain"] >= MANY_UNCERTAIN * scored),
            SlideReason.SEVERAL_PATIENTS: several,
            # The slide has fewer cells than it seems to have.
            SlideReason.REPEATED: counts["repeated"] > 0,
            # If cells were cut out elsewhere, the number left out is unknown.
            SlideReason.TOO_FEW: (counts["fields"] > 0)
            & (counts["parasitized"] == 0)
            & (counts["red_cells"] < cells_needed(self._detectable)),
        }
        reasons: list[list[str]] = [[] for _ in beyond]
        for reason, which in found.items():
            for number in np.flatnonzero(which).tolist():
                reasons[number].append(reason)
        for fields, read, told in zip(beyond, counts["fields_read"].tolist(), reasons, strict=True):
            few = self._tolerated * (read + fields[FieldReason.FAILED])
            told += [f"fields {each}" for each, n in sorted(fields.items()) if n > few]
        return reasons


def _counted(rows: pa.Table, coloured: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Select the image rows (n,) that count for each of `OF_CELLS`."""
    scored, abnormal, uncertain = flags(rows)
    red, parasitized = scored & is_red_cell(rows), is_parasitized(rows)
    counted = {
        "cells": np.ones(rows.num_rows, bool),
        "scored": scored,
        "red_cells": red,
        "ordinary": red & ~abnormal,
        "white_cells": is_white_cell(rows),
        "parasitized": parasitized,
        "parasitized_ordinary": parasitized & ~abnormal,
        "abnormal": abnormal,
        "uncertain": uncertain,
        "coloured": coloured,
        "repeated": is_repeated(rows),
    }
    return [counted[name] for name in OF_CELLS]


def _of_cells(counts: dict[str, NDArray[np.int64]], surprise: Float) -> dict[str, pa.Array]:
    """Make columns of counts and shares of cells."""
    same = ("cells", "scored", "red_cells", "white_cells", "parasitized", "abnormal", "uncertain")
    parasitized, red = counts["parasitized"], counts["red_cells"]
    ordinary = counts["parasitized_ordinary"], counts["ordinary"]
    return {
        **{name: counts[name] for name in same},
        "failed": counts["cells"] - counts["scored"],
        **parasitaemia(parasitized, red, ""),
        **per_1000(parasitized, red),
        **parasitaemia(*ordinary, "_ordinary"),
        "abnormal_fraction": share(counts["abnormal"], counts["scored"]),
        "abnormal_p_value": pa.array(surprise, from_pandas=True),
    }


def _of_fields(
    exclusions: Sequence[Counter[str]], counts: dict[str, NDArray[np.int64]]
) -> dict[str, pa.Array]:
    """Make columns on fields of view; null for slides without fields."""
    there = counts["fields"] > 0
    return {
        **{name: pa.array(counts[name], mask=~there) for name in OF_FIELDS},
        "exclusions": as_map(
            own if has else None for own, has in zip(exclusions, there, strict=True)
        ),
    }


def _of_colours(sums: Float, cells: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Make columns of mean colours, from sums (slides, 3) and numbers of cells (slides,)."""
    with np.errstate(invalid="ignore"):
        means = sums / cells[:, np.newaxis]
    return {
        name: pa.array(means[:, k].astype(np.float32), mask=cells == 0)
        for k, name in enumerate(COLOURS)
    }
