"""Measure what can be believed at a laboratory: false alarms, catches and the diagnosis.

Every slide is judged by statistics without it. Texts say what a laboratory still needs before its
patients can be called.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from tasks import bundles
from tasks.detector.calibration import p_values
from tasks.detector.error_counts import LEAST_SLIDES, THRESHOLDS, ErrorCounts, merge_errors
from tasks.detector.slides import cell_score, groups, night_smears, own_normal
from tasks.metrics.metrics import Interval, interval, resampled
from tasks.smears.counting.call import LEAST_CELLS, percent_text
from tasks.smears.counting.error_rates import laboratory_rates
from tasks.smears.counting.interpretation import ErrorRates, KnownRates, blank_count, cells_needed
from tasks.smears.laboratories.learning import SlideEvidence, fused, mixed
from tasks.smears.reports.parasitaemia import wilson_interval
from tasks.types import Float, Integers
from tasks.words import counted

LEVELS = (0.05, 0.01)
ENOUGH_SLIDES = 20  # with fewer, the calibration of a laboratory is a guess
# The diagnosis is accepted if the lower ends of both intervals reach these.
LEAST_SENSITIVITY, LEAST_SPECIFICITY = 0.80, 0.95
ACCEPTED, NOT_ACCEPTED = "accepted", "not accepted"
NOT_EXAMINED = "not examined at this laboratory"
ALARMS, CAUGHT, DIAGNOSIS = "false alarms", "caught", "diagnosis"
COUNTED = "counting"
OWN, ALONE, POPULATION = "the laboratory", "without the laboratory", "the population"
TRIED = (3, 10, 30)  # further negative slides
MARKED = 20  # parasites of a patient, if a person has marked them
MOST_CELLS = 20_000  # that anybody photographs of a patient

FIGURES = pa.schema(
    [
        *((name, pa.string()) for name in ("part", "name")),
        *((name, pa.float64()) for name in ("level", "value", "low", "high", "worst")),
        *((name, pa.int64()) for name in ("slides", "cells")),
        ("detector", pa.string()),
    ]
)


@dataclass(frozen=True)
class LaboratoryFigure:
    """A share of cells with its 95% interval, at a level of p-values if it has one.

    ``worst`` is the largest share on a slide.
    """

    part: str
    name: str
    level: float | None
    found: Interval
    worst: float | None
    slides: int
    cells: int


def figures_table(figures: Sequence[LaboratoryFigure], detector: str) -> pa.Table:
    """Make a table of `FIGURES`."""
    rows = [vars(each) | each.found.finite() | {"detector": detector} for each in figures]
    return pa.Table.from_pylist(rows, FIGURES)


def leave_out_p_values(
    own: own_normal.OwnNormal,
    reference: cell_score.SlideNormal,
    slides: Sequence[SlideEvidence],
    planted: str | None = None,
) -> list[Float]:
    """Compute p-values (n,) for each slide, by a calibration on the other slides.

    They are of the slide's own cells, or of things of a name that are ``planted`` in it.
    """
    scores = [fused(own, reference, slide.cells) for slide in slides]
    found = []
    for i, slide in enumerate(slides):
        cells = slide.cells if planted is None else slide.planted.get(planted)
        if cells is not None:
            calibration = mixed(own.calibration.cells, scores[:i] + scores[i + 1 :])
            found.append(p_values(calibration, fused(own, reference, cells)))
    return found


def false_alarms(
    own: own_normal.OwnNormal, reference: cell_score.SlideNormal, slides: Sequence[SlideEvidence]
) -> list[LaboratoryFigure]:
    """Measure, in three ways, the share of ordinary cells called abnormal, a mean over slides.

    A cell of an unlabelled night counts as ordinary, so the share is an upper bound.
    """
    return [
        *_called(ALARMS, OWN, leave_out_p_values(own, reference, slides)),
        *_called(ALARMS, ALONE, [slide.p_alone for slide in slides]),
        *_called(ALARMS, POPULATION, [slide.p_population for slide in slides]),
    ]


def caught(
    own: own_normal.OwnNormal, reference: cell_score.SlideNormal, slides: Sequence[SlideEvidence]
) -> list[LaboratoryFigure]:
    """Measure the share of planted things called abnormal, a mean over slides."""
    return [
        replace(figure, worst=None)
        for name in dict.fromkeys(name for slide in slides for name in slide.planted)
        for figure in _called(CAUGHT, name, leave_out_p_values(own, reference, slides, name))
    ]


def _called(part: str, name: str, p: list[Float]) -> list[LaboratoryFigure]:
    """Measure the share of p-values (n,) at each level by slide; nothing without slides."""
    figures, cells = [], sum(map(len, p))
    for level in LEVELS if p else ():
        shares = np.asarray([np.mean(each <= level) for each in p])
        mean = Interval(float(shares.mean()))
        if len(shares) > 1:
            draws = resampled(np.arange(len(shares))) @ shares / len(shares)
            mean = interval(mean.value, draws)
        figures.append(
            LaboratoryFigure(part, name, level, mean, float(shares.max()), len(p), cells)
        )
    return figures


def diagnosis(confusion: Integers, positive: int) -> tuple[str, list[LaboratoryFigure]]:
    """Judge whether the diagnosis can be believed: sensitivity and specificity on labelled cells.

    ``confusion`` (G, C, C) counts the cells of each slide by label and by diagnosis. Intervals are
    the wider of Wilson's for cells and one from resampled slides.
    """
    labelled = confusion.sum(axis=2)
    is_positive = np.arange(confusion.shape[1]) == positive
    sick, called = labelled[:, positive], confusion[:, positive, positive]
    well = labelled[:, ~is_positive].sum(axis=1)
    cleared = confusion[:, ~is_positive][:, :, ~is_positive].sum(axis=(1, 2))
    figures = [
        LaboratoryFigure(
            DIAGNOSIS, name, None, _share(right, of), None, int((of > 0).sum()), int(of.sum())
        )
        for name, right, of in (("sensitivity", called, sick), ("specificity", cleared, well))
        if of.sum()
    ]
    if len(figures) < 2:
        return NOT_EXAMINED, figures
    reached = zip(figures, (LEAST_SENSITIVITY, LEAST_SPECIFICITY), strict=True)
    good = all(figure.found.low >= least for figure, least in reached)
    return ACCEPTED if good else NOT_ACCEPTED, figures


def counting_figures(own: KnownRates, fitted: KnownRates) -> list[LaboratoryFigure]:
    """Compare a laboratory's error rates at the counting threshold with those of fitted
    laboratories.

    The intervals are of the mean over slides. A rate that the laboratory has no slide for is
    predicted from fitted laboratories.
    """
    figures = []
    for whose, known in ((OWN, own), (POPULATION, fitted)):
        rates = known.counting
        for name, rate in (("false positives", rates.false), ("sensitivity", rates.found)):
            estimate = Interval(rate.mean, rate.low, rate.high)
            label = f"{name}, {whose}"
            figures.append(
                LaboratoryFigure(COUNTED, label, None, estimate, None, rate.slides, rate.cells)
            )
    return sorted(figures, key=lambda figure: figure.name.partition(",")[0])


def _share(right: Integers, cells: Integers) -> Interval:
    total = int(cells.sum())
    low, high = wilson_interval(int(right.sum()), total)
    if np.count_nonzero(cells) > 1:
        times = resampled(np.arange(len(cells)))
        with np.errstate(divide="ignore", invalid="ignore"):
            by_slide = interval(0.0, times @ right / (times @ cells))
        low, high = min(low, by_slide.low), max(high, by_slide.high)
    return Interval(float(right.sum()) / total, low, high)


def smear_warnings(own: own_normal.OwnNormal, statistics: groups.GroupStatistics) -> list[str]:
    """Warn of commissioned slides that are unlike every smear that the detector knows."""
    if own.floor is None or not statistics.keys:
        return []
    marks = night_smears.beyond_shift(own.floor, own.priors, statistics)
    if not marks.any():
        return []
    keys = [key for key, is_far in zip(statistics.keys, marks, strict=True) if is_far]
    names = ", ".join(key.slide or key.patient for key in keys[:5])
    return [
        f"{len(keys)} of {len(marks)} slides are further from the fitted ones than any smear that "
        f"the detector knows ({names}): a new stain or camera, or no blood. They are ordinary "
        "here from now on: look at them, and undo it with slidewatch unlearn if they are no blood"
    ]


def laboratory_warnings(slides: int) -> list[str]:
    """Warn of a laboratory with too few slides."""
    if slides >= ENOUGH_SLIDES:
        return []
    number = f"only {slides}" if slides else "no"
    few = "one slide calibrates" if slides == 1 else f"{number} slides calibrate"
    return [
        f"{few} this laboratory: below {ENOUGH_SLIDES} its false-alarm level is a guess, for the "
        "most part that of the fitted slides"
    ]


def positive_text(rates: ErrorRates, cells: int) -> str:
    """Say from how many called cells on a patient of some red ``cells`` is positive."""
    if not rates.tell:
        return "nobody can be called: healthy cells are called as often as parasites"
    if cells < LEAST_CELLS:
        return f"patients of fewer than {LEAST_CELLS} red cells that count are never positive"
    least = blank_count(cells, rates.false.nodes) + 1
    return f"a patient of {counted(cells, 'red cell')} is positive from {least:,} called ones on"


def negative_texts(
    fitted: ErrorCounts, known: ErrorCounts, rates: ErrorRates, wanted: float
) -> list[str]:
    """Say what a negative call needs at a laboratory, in at most one sentence.

    More slides are expected to be like the ``known`` ones of the laboratory, at least one of which
    is negative, and parasites as sure as ``fitted`` ones. The ``rates`` are the laboratory's, at
    the counting threshold; a negative call rules out the parasitaemia ``wanted``, a share.
    """
    if not rates.tell:
        return []
    share = percent_text(100 * wanted)
    needed = cells_needed(wanted, rates)
    if needed is not None and needed <= MOST_CELLS:
        return [f"to be negative (at most {share}) a patient needs {needed:,} red cells"]
    for what, more in _further(fitted, known):
        needed = cells_needed(wanted, laboratory_rates(fitted, more, rates.log_odds))
        if needed is not None and needed <= MOST_CELLS:
            return [f"{what}, and patients of {needed:,} red cells can be negative"]
    rate = f"{rates.false.mean:.2%} of healthy cells are called, which differs between slides"
    return [f"nobody can be called negative (at most {share}): {rate}"]


def _further(fitted: ErrorCounts, known: ErrorCounts) -> Iterator[tuple[str, ErrorCounts]]:
    """Add more and more slides like the known ones, and say what was added."""
    negative = np.flatnonzero(known.negatives > 0)
    none = np.zeros((LEAST_SLIDES, len(THRESHOLDS)), np.int64)
    found = np.rint(MARKED * fitted.found.sum(axis=0) / max(fitted.positives.sum(), 1))
    marked = ErrorCounts(
        tuple(f"marked {n}" for n in range(LEAST_SLIDES)),
        none[:, 0],
        none[:, 0] + MARKED,
        none,
        none + found.astype(np.int64),
    )
    by_person = f"marked parasites of {LEAST_SLIDES} patients (review serve, apply)"
    for words, start in (([], known), ([by_person], merge_errors(known, marked))):
        if words:
            yield by_person, start
        for slides in TRIED:
            again = bundles.take(known, np.resize(negative, slides))
            again = replace(again, slides=tuple(f"further {n}" for n in range(slides)))
            yield (
                " and ".join([f"{slides} more negative slides", *words]),
                merge_errors(start, again),
            )
