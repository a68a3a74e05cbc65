"""Compose slides of known parasitaemia from cells of unseen patients, and judge their counts.

A slide is composed of one patient's cells. Its number of parasites is drawn from its parasitaemia;
each is found with the probability that one of that patient's parasites passes the threshold, and
likewise for other cells. A hundred cells of a patient do not determine these probabilities, so each
slide draws them from what the patient's cells and those of others allow
(`tasks.counting.rates.slide_rates`). Cells drawn again and again instead would make one false call
among 70 cells a rate of 1.4%, and none a rate of 0: patients would differ more than they do. The
error rates by which a slide is judged always come from other patients.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.bundles import take
from tasks.counting.call import Answers, Call
from tasks.counting.error_rates import THRESHOLDS, ErrorCounts, count_errors
from tasks.counting.interpretation import KnownRates, blank_count, corrected, detection_limit
from tasks.counting.rates import NODES, slide_rates
from tasks.counting.threshold import DIAGNOSIS, are_enough, known_rates, rates_at
from tasks.evaluation.metrics import Interval, Metric, Subject
from tasks.evaluation.scored import OWN
from tasks.evaluation.seeds import COMPOSED
from tasks.reports.parasitaemia import wilson_interval
from tasks.types import Float

SHARES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)
SIZES = (1000, 5000, 20_000)  # red cells
FOLDS = 5
LEAST_CELLS = 20  # of a kind, for slides of a patient to be composed: fewer give no rate
HEALTHY_SLIDES, INFECTED_SLIDES = 12, 2  # per patient, size and parasitaemia
WITHIN = 0.25  # of the true count, as the WHO asks of microscopists of the first level
COUNTED_BY_IT = 0.01  # least parasitaemia at which counts are compared in this way
MICROLITRE = 5e6  # red cells
TODAY = "cells over cells"  # the diagnosed share with its Wilson interval


@dataclass(frozen=True)
class KnownCells:
    """Cells (n,) of known kind: log-odds by a network that has not seen their patients (n,)."""

    log_odds: Float
    parasitized: NDArray[np.bool_]
    patients: Sequence[str]


@dataclass(frozen=True)
class _Patient:
    """A patient's equally probable error rates (3, NODES): at diagnosis, dense and counting."""

    name: str
    false: Float
    found: Float | None


def compose(cells: KnownCells, counts: ErrorCounts, cells_best: int, seed: int) -> pa.Table:
    """Compose slides and count parasites on each; one row per slide.

    A slide is judged without the error counts of its patient's fold; the counting threshold is
    chosen for ``cells_best`` red cells.
    """
    rng = np.random.default_rng(seed)
    own = count_errors(cells.log_odds, cells.parasitized, cells.patients)
    healthy = own.positives == 0
    rows: list[dict[str, object]] = []
    for fold in _folds(healthy, rng):
        names = {own.slides[place] for place in fold}
        others = without(counts, names)
        if not are_enough(others):
            continue
        rates = known_rates(others, cells_best)
        answers = Answers(rates, wanted=COUNTED_BY_IT)
        for patient in _patients(own, fold, rates):
            rows += _slides(patient, answers, rng)
    return pa.Table.from_pylist(rows, SLIDES)


def without(counts: ErrorCounts, slides: set[str]) -> ErrorCounts:
    """Remove some slides from error counts."""
    return take(counts, np.flatnonzero([name not in slides for name in counts.slides]))


SLIDES = pa.schema(
    [
        ("patient", pa.string()),
        ("healthy", pa.bool_()),
        ("cells", pa.int64()),
        ("parasitaemia", pa.float64()),
        ("threshold", pa.float64()),
        ("called", pa.int64()),
        ("diagnosed", pa.int64()),
        ("corrected", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("call", pa.string()),
        ("limit_of_blank", pa.float64()),
        ("limit_of_detection", pa.float64()),
    ]
)


def _folds(healthy: NDArray[np.bool_], rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Divide patients into folds with equal numbers of healthy ones."""
    fold = np.zeros(len(healthy), np.intp)
    for kind in (healthy, ~healthy):
        places = rng.permutation(np.flatnonzero(kind))
        fold[places] = np.arange(len(places)) % FOLDS
    for number in range(FOLDS):
        yield np.flatnonzero(fold == number)


def _patients(own: ErrorCounts, fold: NDArray[np.intp], rates: KnownRates) -> Iterator[_Patient]:
    thresholds = (DIAGNOSIS, rates.dense.log_odds, rates.counting.log_odds)
    # In ascending order, so that a cell that passes one has passed those before.
    places = [
        int(np.argmin(np.abs(THRESHOLDS - each))) for each in np.maximum.accumulate(thresholds)
    ]
    rows = [
        row
        for row in fold.tolist()
        if own.negatives[row] >= LEAST_CELLS and not 0 < own.positives[row] < LEAST_CELLS
    ]
    if not rows:
        return
    false = [slide_rates(own.false[:, place], own.negatives, rows) for place in places]
    found = [slide_rates(own.found[:, place], own.positives, rows) for place in places]
    for number, row in enumerate(rows):
        of = [np.stack([rates[number] for rates in kind]) for kind in (false, found)]
        yield _Patient(own.slides[row], of[0], of[1] if own.positives[row] else None)


def _slides(
    patient: _Patient, answers: Answers, rng: np.random.Generator
) -> Iterator[dict[str, object]]:
    """Compose slides: without parasites for a healthy patient, with some for others."""
    shares = (0.0,) if patient.found is None else SHARES[1:]
    each = HEALTHY_SLIDES if patient.found is None else INFECTED_SLIDES
    assert answers.rates is not None
    for cells in SIZES:
        for share in shares:
            for _ in range(each):
                parasites = int(rng.binomial(cells, share))
                diagnosed, dense, called = _counts(patient, cells - parasites, parasites, rng)
                answer = answers.of(called, dense, cells)
                yield {
                    "patient": patient.name,
                    "healthy": patient.found is None,
                    "cells": cells,
                    "parasitaemia": share,
                    "threshold": answers.rates.counting.log_odds,
                    "called": called,
                    "diagnosed": diagnosed,
                    "corrected": answer.parasitaemia,
                    "low": answer.low,
                    "high": answer.high,
                    "call": answer.call,
                    "limit_of_blank": answer.limit_of_blank,
                    "limit_of_detection": answer.limit_of_detection,
                }


def _counts(
    patient: _Patient, negatives: int, parasites: int, rng: np.random.Generator
) -> list[int]:
    """Draw the number of cells that pass each threshold, among those that passed the one before."""
    total = np.zeros(len(patient.false), np.int64)
    for cells, rates in ((negatives, patient.false), (parasites, patient.found)):
        if rates is None:
            continue
        shares = np.minimum.accumulate(rates[:, rng.integers(NODES)])
        left, before = cells, 1.0
        for place, share in enumerate(shares.tolist()):
            left = int(rng.binomial(left, share / before)) if before else 0
            before = share
            total[place] += left
    return [int(n) for n in total]


def composed_metrics(
    slides: pa.Table, counts: ErrorCounts, rates: KnownRates, model: str, seed: int
) -> list[Metric]:
    """Measure counts on composed slides by our way and by today's, cells over cells with Wilson.

    ``counts`` are all error counts, for the diagnosis' rates; ``rates`` are those of the detector's
    thresholds.
    """
    found: list[Metric] = []
    columns = {name: np.asarray(slides[name].to_pylist()) for name in SLIDES.names}
    ways = {OWN: _own(columns), TODAY: _today(columns)}
    diagnosis = rates_at(counts, DIAGNOSIS)
    for cells in SIZES:
        subject = Subject(model, seed, COMPOSED, f"{cells:,} cells")
        for name, each in ((OWN, rates.counting), (TODAY, diagnosis)):
            limit = detection_limit(cells, each)
            blank = corrected(blank_count(cells, each), cells, each)
            figures = {
                "limit of blank": blank,
                "limit of detection": limit,
                "false positives, mean": each.false.mean,
                "false positives, deviation": each.false.deviation,
                "sensitivity, mean": each.found.mean,
                "sensitivity, deviation": each.found.deviation,
            }
            found += [
                Metric(subject, name, metric, Interval(np.nan if value is None else value))
                for metric, value in figures.items()
            ]
        of_size = columns["cells"] == cells
        for name, way in ways.items():
            found += _of_slides(subject, name, way, columns, of_size)
    return found


Way = Mapping[str, NDArray[Any]]


def _own(columns: Mapping[str, NDArray[Any]]) -> Way:
    return {
        "estimate": columns["corrected"],
        "low": columns["low"],
        "high": columns["high"],
        "positive": columns["call"] == Call.POSITIVE,
    }


def _today(columns: Mapping[str, NDArray[Any]]) -> Way:
    """Divide diagnosed cells by cells; a slide with a single diagnosed cell is positive."""
    diagnosed, cells = columns["diagnosed"].astype(np.int64), columns["cells"].astype(np.int64)
    low, high = wilson_interval(diagnosed, cells)
    return {"estimate": diagnosed / cells, "low": low, "high": high, "positive": diagnosed > 0}


def _of_slides(
    subject: Subject,
    name: str,
    way: Way,
    columns: Mapping[str, NDArray[Any]],
    of_size: NDArray[np.bool_],
) -> list[Metric]:
    """Measure one way of counting on slides of one size, with intervals over patients."""
    truth, patients = columns["parasitaemia"].astype(np.float64), columns["patient"]
    estimate = way["estimate"].astype(np.float64)
    covered = (way["low"] <= truth) & (truth <= way["high"])
    near = np.abs(estimate - truth) <= WITHIN * truth
    found = []
    for share in np.unique(truth[of_size]).tolist():
        which = of_size & (truth == share)
        at = Subject(subject.model, subject.seed, COMPOSED, subject.set, 100 * share)
        measured = {"covered": covered, "called positive": way["positive"]}
        measured |= {"within 25%": near} if share >= COUNTED_BY_IT else {}
        found += [
            Metric(at, name, metric, _over_patients(values[which], patients[which]),
                   positives=int(which.sum()) if share else 0,
                   negatives=0 if share else int(which.sum()))
            for metric, values in measured.items()
        ]  # fmt: skip
    with_parasites = of_size & (truth > 0)
    difference = agreement(truth[with_parasites], estimate[with_parasites])[1]
    middle, spread = float(difference.mean()), float(difference.std(ddof=1))
    limits = Interval(middle, middle - 1.96 * spread, middle + 1.96 * spread)
    counted = of_size & (truth >= COUNTED_BY_IT)
    found.append(Metric(subject, name, "agreement, roots of parasites per microlitre", limits))
    found.append(
        Metric(
            subject, name, "within 25% from 1% on", _over_patients(near[counted], patients[counted])
        )
    )
    return found


def agreement(truth: Float, estimate: Float) -> tuple[Float, Float]:
    """Compute mean and difference (n,) of the square roots of parasites per microlitre.

    On this scale counts have the same variance at all densities (Alexander et al. 2010); the limits
    of agreement are the mean difference and 1.96 deviations.
    """
    roots = np.sqrt(MICROLITRE * estimate), np.sqrt(MICROLITRE * truth)
    return (roots[0] + roots[1]) / 2, roots[0] - roots[1]


def agreements(slides: pa.Table) -> dict[int, dict[str, tuple[Float, Float]]]:
    """List, by slide size and way, means and differences of roots for slides with parasites."""
    columns = {name: np.asarray(slides[name].to_pylist()) for name in SLIDES.names}
    truth = columns["parasitaemia"].astype(np.float64)
    found = {}
    for cells in SIZES:
        which = (columns["cells"] == cells) & (truth > 0)
        found[cells] = {
            name: agreement(truth[which], way["estimate"][which].astype(np.float64))
            for name, way in ((OWN, _own(columns)), (TODAY, _today(columns)))
        }
    return found


def _over_patients(values: NDArray[Any], patients: NDArray[Any]) -> Interval:
    """Average over patients, with the normal 95% interval of their means."""
    _, index = np.unique(patients.astype(str), return_inverse=True)
    if not len(values):
        return Interval(np.nan)
    means = np.bincount(index, values.astype(np.float64)) / np.bincount(index)
    middle = float(means.mean())
    if len(means) < 2:
        return Interval(middle)
    half = 1.96 * float(means.std(ddof=1)) / len(means) ** 0.5
    return Interval(middle, max(0.0, middle - half), min(1.0, middle + half))
