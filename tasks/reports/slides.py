"""From image rows to one row a slide: parasitaemia with its interval, and what needs a person.

A slide whose cells are abnormal together (another stain, out of focus) is named here, once. Only
red cells count for parasitaemia; where cells were cut out of fields of view, their rows say which.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.reports.columns import (
    ACCEPT,
    COLOURS,
    FAILED,
    FIELD,
    REVIEW,
    as_map,
    coded,
    failure_reasons,
    flags,
    is_parasitized,
    is_red_cell,
    is_white_cell,
    numbers_of,
    share,
)
from tasks.reports.field_limits import TOLERATED
from tasks.reports.parasitaemia import (
    DETECTABLE_PERCENT,
    binomial_p_value,
    cells_needed,
    density_class,
    detectable_percent,
    negative_call,
    parasitaemia,
    per_1000,
)
from tasks.types import Float

TOGETHER = "abnormal together"  # the reason of a slide whose cells are
TOO_FEW = "too few cells for a negative call"

# A slide whose patient is like those that calibrated gets there about once in a thousand: the
# rate of abnormal cells varies from patient to patient by about the rate itself (README).
ABNORMAL_TOGETHER = 0.25
# Cells of a slide resemble each other: if five of them say no more than one independent cell
# does, this is a chance of about one in fifty.
ABNORMAL_P_VALUE = 1e-6
# A tenth of the cells missing can move the count of a slide by more than its interval says.
MANY_FAILED = 0.1
# Of fewer cells not even all abnormal would be more than chance at an alpha of .05. A field of view
# shows a dozen, so a higher limit would name every field; the interval says how little is known.
FEW_CELLS = 5
# Cells below the least probability are a few in a hundred where images are as in training.
MANY_UNCERTAIN = 0.25

# Medians are those of bins this wide, so that a slide's memory does not grow with its cells.
ABNORMALITY_BIN = 0.05
P_VALUE_BINS_A_DECADE = 20


_OF_FIELDS = (
    "fields",
    "fields_read",
    "fields_excluded",
    "fields_for_review",
    "cells_at_border",
)


@dataclass
class _Slide:
    """What is counted of a slide."""

    cells: int = 0
    scored: int = 0
    red_cells: int = 0
    ordinary: int = 0
    white_cells: int = 0
    parasitized: int = 0
    parasitized_ordinary: int = 0
    abnormal: int = 0
    uncertain: int = 0
    patients: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)
    abnormality: Counter[int] = field(default_factory=Counter)
    p_value: Counter[int] = field(default_factory=Counter)
    coloured: int = 0
    colour: Float = field(default_factory=lambda: np.zeros(3))
    fields: int = 0
    fields_read: int = 0
    fields_excluded: int = 0
    fields_for_review: int = 0
    cells_at_border: int = 0
    exclusions: Counter[str] = field(default_factory=Counter)
    beyond: Counter[str] = field(default_factory=Counter)


class SlideTally:
    """Counts by slide over image rows that come in parts, in whatever order and parts.

    Memory grows with the number of slides, not with that of images.
    """

    def __init__(self) -> None:
        self._slides: dict[str | None, _Slide] = {}

    def count(self, rows: pa.Table) -> None:
        """Count image rows; rows without a slide count as one slide."""
        codes, names = coded(rows["slide_id"])
        scored, abnormal, uncertain = flags(rows)
        red, parasitized = scored & is_red_cell(rows), is_parasitized(rows)
        numbers = {
            "cells": np.ones(len(codes), bool),
            "scored": scored,
            "red_cells": red,
            "ordinary": red & ~abnormal,
            "white_cells": is_white_cell(rows),
            "parasitized": parasitized,
            "parasitized_ordinary": parasitized & ~abnormal,
            "abnormal": abnormal,
            "uncertain": uncertain,
        }
        slides = [self._slides.setdefault(name, _Slide()) for name in names]
        for name, which in numbers.items():
            totals = np.bincount(codes[which], minlength=len(slides))
            for slide, total in zip(slides, totals.tolist(), strict=True):
                setattr(slide, name, getattr(slide, name) + total)
        for code, patient in zip(codes, rows["patient_id"].to_pylist(), strict=True):
            # Two are enough to know that there are several.
            if patient is not None and len(slides[code].patients) < 2:
                slides[code].patients.add(patient)
        for code, reason in zip(codes, failure_reasons(rows), strict=True):
            if reason is not None:
                slides[code].failures[reason] += 1
        colours = np.stack([numbers_of(rows, name) for name in COLOURS], axis=1)
        coloured = ~np.isnan(colours).any(axis=1)
        known = np.bincount(codes[coloured], minlength=len(slides)).tolist()
        sums = [np.bincount(codes[coloured], each, len(slides)) for each in colours[coloured].T]
        for slide, n, colour in zip(slides, known, np.stack(sums, axis=1), strict=True):
            slide.coloured += n
            slide.colour += colour
        p, score = numbers_of(rows, "p_value"), numbers_of(rows, "abnormality")
        with np.errstate(divide="ignore", invalid="ignore"):
            bins = {
                "p_value": np.floor(np.log10(p) * P_VALUE_BINS_A_DECADE),
                "abnormality": np.floor(score / ABNORMALITY_BIN),
            }
        for name, places in bins.items():
            known = np.isfinite(places)
            pairs = np.stack([codes[known], places[known].astype(np.int64)])
            found, times = np.unique(pairs, axis=1, return_counts=True)
            for code, place, n in zip(*found.tolist(), times.tolist(), strict=True):
                getattr(slides[code], name)[place] += n

    def count_fields(self, rows: pa.Table) -> None:
        """Count field rows; a slide may have fields and no cells."""
        columns = ("slide_id", "patient_id", "kind", "failure", "review_reason", "cells_at_border")
        values = (rows[name].to_pylist() for name in columns)
        for name, patient, kind, failure, reason, cut in zip(*values, strict=True):
            slide = self._slides.setdefault(name, _Slide())
            if patient is not None and len(slide.patients) < 2:
                slide.patients.add(patient)
            slide.fields += 1
            slide.fields_excluded += kind != FIELD
            slide.cells_at_border += cut or 0
            slide.fields_for_review += reason is not None
            slide.beyond.update(reason.split(", ") if reason else [])
            slide.fields_read += kind == FIELD
            if kind != FIELD:
                slide.exclusions[kind or (failure or FAILED).partition(":")[0]] += 1

    def table(
        self,
        *,
        alpha: float,
        names: Mapping[str, Any],
        detectable: float = DETECTABLE_PERCENT,
        tolerated: float = TOLERATED,
    ) -> pa.Table:
        """One row a slide, by name; images without a slide are the last row.

        ``abnormal_p_value`` is that of a one-sided exact binomial test of the abnormal cells
        against ``alpha``. It takes cells for independent of each other, which those of one slide
        are not, so it is too small: it can point to a slide, never to a cell, and only a strict
        level together with a gross excess makes a slide ``abnormal together``.

        Args:
            alpha: the detector's level.
            names: what is the same in all rows: model, detector, batch, batch_date, scored_at.
            detectable: parasitaemia in percent that the fields of a slide without parasites must
                have had enough red cells to show.
            tolerated: share of a slide's fields that may be beyond a limit, or have failed, before
                the slide is for review. Those that are empty or thick are none of them.
        """
        order = sorted(self._slides, key=lambda name: (name is None, name or ""))
        slides = [self._slides[name] for name in order]

        def counts(name: str) -> NDArray[np.int64]:
            return np.asarray([getattr(slide, name) for slide in slides], np.int64)

        scored, abnormal = counts("scored"), counts("abnormal")
        red, parasitized = counts("red_cells"), counts("parasitized")
        of_fields = pa.array([slide.fields > 0 for slide in slides], pa.bool_())
        surprise = binomial_p_value(abnormal, scored, alpha)
        reasons = [
            _reasons(slide, name, p, alpha, detectable, tolerated)
            for slide, name, p in zip(slides, order, surprise, strict=True)
        ]
        columns = {
            "slide_id": pa.array(order, pa.string()),
            "patient_id": pa.array(
                [
                    next(iter(slide.patients)) if len(slide.patients) == 1 else None
                    for slide in slides
                ],
                pa.string(),
            ),
            "cells": counts("cells"),
            "scored": scored,
            "failed": counts("cells") - scored,
            "failures": as_map(slide.failures for slide in slides),
            **{name: pc.if_else(of_fields, counts(name), None) for name in _OF_FIELDS},
            "exclusions": as_map(slide.exclusions if slide.fields else None for slide in slides),
            "red_cells": red,
            "white_cells": counts("white_cells"),
            "parasitized": parasitized,
            **parasitaemia(parasitized, red, ""),
            **per_1000(parasitized, red),
            **parasitaemia(counts("parasitized_ordinary"), counts("ordinary"), "_ordinary"),
            "density_class": pa.array(
                [density_class(slide.parasitized, slide.red_cells) for slide in slides],
                pa.string(),
            ),
            "detectable_percent": pa.array(
                [detectable_percent(slide.red_cells) for slide in slides], pa.float64()
            ),
            "negative_call": pa.array(
                [
                    None if slide.parasitized else negative_call(slide.red_cells, detectable)
                    for slide in slides
                ],
                pa.string(),
            ),
            "abnormal": abnormal,
            "abnormal_fraction": share(abnormal, scored),
            "abnormal_p_value": pa.array(surprise, from_pandas=True),
            "uncertain": counts("uncertain"),
            "abnormality_median": pa.array(
                [_median(slide.abnormality, ABNORMALITY_BIN) for slide in slides], pa.float64()
            ),
            "p_value_median": pa.array(
                [_median_p_value(slide.p_value) for slide in slides], pa.float64()
            ),
            **{
                name: pa.array(
                    [
                        slide.colour[k] / slide.coloured if slide.coloured else None
                        for slide in slides
                    ],
                    pa.float32(),
                )
                for k, name in enumerate(COLOURS)
            },
            "verdict": pa.array([REVIEW if each else ACCEPT for each in reasons], pa.string()),
            "review_reasons": pa.array(reasons, pa.list_(pa.string())),
            **{name: pa.repeat(pa.scalar(value), len(slides)) for name, value in names.items()},
        }
        return pa.table(columns)


def _reasons(
    slide: _Slide,
    name: str | None,
    surprise: float,
    alpha: float,
    detectable: float,
    tolerated: float,
) -> list[str]:
    few = tolerated * (slide.fields_read + slide.beyond[FAILED])
    limit = max(ABNORMAL_TOGETHER, alpha)
    found = {
        TOGETHER: surprise <= ABNORMAL_P_VALUE and slide.abnormal >= limit * slide.scored,
        "many failed": slide.cells - slide.scored >= MANY_FAILED * slide.cells > 0,
        "few cells": slide.scored < FEW_CELLS,
        "many uncertain": slide.uncertain >= MANY_UNCERTAIN * slide.scored and slide.uncertain > 0,
        "several patients": name is not None and len(slide.patients) > 1,
        # Of cells that were cut out elsewhere nobody knows how many were left out.
        TOO_FEW: slide.fields > 0
        and not slide.parasitized
        and slide.red_cells < cells_needed(detectable),
        **{f"fields {reason}": n > few for reason, n in sorted(slide.beyond.items())},
    }
    return [reason for reason, is_so in found.items() if is_so]


def _median(bins: Counter[int], width: float) -> float | None:
    """The median of binned values; where it falls between two bins, the middle of both."""
    total, seen = sum(bins.values()), 0
    if not total:
        return None
    middle: list[int] = []
    for place in sorted(bins):
        before, seen = seen, seen + bins[place]
        middle += [place for rank in ((total - 1) // 2, total // 2) if before <= rank < seen]
    return (sum(middle) / 2 + 0.5) * width


def _median_p_value(bins: Counter[int]) -> float | None:
    exponent = _median(bins, 1 / P_VALUE_BINS_A_DECADE)
    return None if exponent is None else min(1.0, 10.0**exponent)
