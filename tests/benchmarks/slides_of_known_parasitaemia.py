"""Compose slides of known parasitaemia, and judge how a detector counts and calls them.

    python -m tests.benchmarks.figures --work FOLDER --only detection

A slide is composed of one patient's cells that training has not seen. Its number of parasites is
drawn from its parasitaemia; each is found with the probability that one of that patient's parasites
passes the threshold, and likewise for other cells. A hundred cells of a patient do not determine
these probabilities, so each slide draws them from what the patient's cells and those of others
allow (`slide_rates`). Cells drawn again and again instead would make one false
call among 70 cells a rate of 1.4%, and none a rate of 0: patients would differ more than they do.
The error rates by which a slide is judged always come from other patients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, expit, logit

from tasks.bundles import take
from tasks.detector import error_counts
from tasks.smears.counting import call, error_rates, interpretation
from tasks.smears.counting.rates import ALPHA, BETA, NODES, RATES, _posterior

Float = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

SHARES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)
SIZES = (1000, 5000, 20_000)  # red cells
FOLDS = 5
LEAST_CELLS = 20  # of a kind, for slides of a patient to be composed: fewer give no rate
HEALTHY_SLIDES, INFECTED_SLIDES = 12, 2  # per patient, size and parasitaemia
WITHIN = 0.25  # of the true count, as the WHO asks of microscopists of the first level
COUNTED_BY_IT = 0.01  # least parasitaemia at which counts are compared in this way


@dataclass(frozen=True)
class Patient:
    """A patient's equally probable error rates (2, NODES): at the dense and counting threshold."""

    name: str
    false: Float
    found: Float | None


def compose(counts: error_counts.ErrorCounts, cells_best: int, seed: int) -> Columns:
    """Compose slides and count parasites on each; one row per slide.

    A slide is judged without the error counts of its patient's fold; the counting threshold is
    chosen for ``cells_best`` red cells.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for fold in folds(counts.positives == 0, rng):
        others = take(counts, np.setdiff1d(np.arange(len(counts.slides)), fold))
        if not error_counts.are_enough(others):
            continue
        rates = error_rates.known_rates(others, cells_best)
        answers = call.Interpreter(rates, wanted=COUNTED_BY_IT)
        for patient in patients(counts, fold, rates):
            rows += slides(patient, answers, rng)
    return {name: np.asarray([row[name] for row in rows]) for name in rows[0]}


def folds(healthy: NDArray[np.bool_], rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Divide patients into folds with equal numbers of healthy ones."""
    fold = np.zeros(len(healthy), np.intp)
    for kind in (healthy, ~healthy):
        places = rng.permutation(np.flatnonzero(kind))
        fold[places] = np.arange(len(places)) % FOLDS
    for number in range(FOLDS):
        yield np.flatnonzero(fold == number)


def patients(
    counts: error_counts.ErrorCounts, fold: NDArray[np.intp], rates: interpretation.KnownRates
) -> Iterator[Patient]:
    thresholds = (rates.dense.log_odds, rates.counting.log_odds)
    # In ascending order, so that a cell that passes one has passed those before.
    places = [
        int(np.argmin(np.abs(error_counts.THRESHOLDS - each)))
        for each in np.maximum.accumulate(thresholds)
    ]
    rows = [
        row
        for row in fold.tolist()
        if counts.negatives[row] >= LEAST_CELLS and not 0 < counts.positives[row] < LEAST_CELLS
    ]
    if not rows:
        return
    false = [slide_rates(counts.false[:, place], counts.negatives, rows) for place in places]
    found = [slide_rates(counts.found[:, place], counts.positives, rows) for place in places]
    for number, row in enumerate(rows):
        of = [np.stack([rates[number] for rates in kind]) for kind in (false, found)]
        yield Patient(counts.slides[row], of[0], of[1] if counts.positives[row] else None)


def slide_rates(hits: NDArray[Any], cells: NDArray[Any], wanted: list[int]) -> list[Float]:
    """Find NODES equally probable rates of each wanted slide, by its own cells and the others'."""
    weights = _posterior(hits[cells > 0], cells[cells > 0], None)
    middles = (np.arange(NODES) + 0.5) / NODES
    found = []
    for s in wanted:
        below = betainc(ALPHA + hits[s], BETA + cells[s] - hits[s], RATES[:, None, None])
        shares = np.tensordot(below, weights)
        found.append(expit(np.interp(middles, shares, logit(RATES))))
    return found


def slides(
    patient: Patient, answers: call.Interpreter, rng: np.random.Generator
) -> Iterator[dict[str, object]]:
    """Compose slides: without parasites for a healthy patient, with some for others."""
    shares = (0.0,) if patient.found is None else SHARES[1:]
    each = HEALTHY_SLIDES if patient.found is None else INFECTED_SLIDES
    for cells in SIZES:
        for share in shares:
            for _ in range(each):
                parasites = int(rng.binomial(cells, share))
                dense, called = draw(patient, cells - parasites, parasites, rng)
                answer = answers.of(called, dense, cells)
                yield {
                    "patient": patient.name,
                    "cells": cells,
                    "parasitaemia": share,
                    "corrected": answer.parasitaemia,
                    "low": answer.low,
                    "high": answer.high,
                    "positive": answer.call == call.Call.POSITIVE,
                }


def draw(patient: Patient, negatives: int, parasites: int, rng: np.random.Generator) -> list[int]:
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


def measured(columns: Columns) -> Iterator[tuple[int, float, str, tuple[float, ...]]]:
    """Yield size, parasitaemia, measure and its value with an interval."""
    truth, cells = columns["parasitaemia"], columns["cells"]
    inside = (columns["low"] <= truth) & (truth <= columns["high"])
    measures = {"covered": inside, "positive": columns["positive"]}
    measures["within 25%"] = np.abs(columns["corrected"] - truth) <= WITHIN * truth
    for size in SIZES:
        for share in SHARES:
            which = (cells == size) & (truth == share)
            for measure, hits in measures.items():
                if measure != "within 25%" or share >= COUNTED_BY_IT:
                    value = over_patients(hits[which], columns["patient"][which])
                    yield size, share, measure, value


def over_patients(values: NDArray[Any], names: NDArray[Any]) -> tuple[float, ...]:
    """Average over patients, with the normal 95% interval of their means."""
    if not len(values):
        return (np.nan, np.nan, np.nan)
    _, index = np.unique(names.astype(str), return_inverse=True)
    means = np.bincount(index, values.astype(np.float64)) / np.bincount(index)
    middle = float(means.mean())
    half = 1.96 * float(means.std(ddof=1)) / len(means) ** 0.5 if len(means) > 1 else np.nan
    return middle, max(0.0, middle - half), min(1.0, middle + half)
