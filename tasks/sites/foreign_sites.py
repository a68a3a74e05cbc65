"""Check another store's site before it is kept: its normal and its nights' contributions.

A site is used with its own detector, which this store has. So the site's arrays are compared with
the detector's: they need the same taps, and a normal as near to the population's as laboratories
are.
"""

from collections.abc import Mapping

import numpy as np
from scipy.linalg import LinAlgError, cholesky

from tasks.counting.error_rates import THRESHOLDS, ErrorCounts
from tasks.counting.rates import NODES
from tasks.detector.slides.distance import Prior
from tasks.detector.slides.groups import GroupStatistics
from tasks.detector.slides.own_normal import OwnNormal
from tasks.detector.witnesses import Discriminant
from tasks.sites.bounds import (
    array,
    counts,
    exactly,
    groups,
    number,
    pseudonym,
    refuse,
    semidefinite,
    texts,
)
from tasks.sites.foreign_statistics import MOST_DEVIATIONS, Reach
from tasks.sites.learning import DISCRIMINANT
from tasks.types import Arrays, Float, below, nested

# Limits of a site's variance, as shares of the population's.
LEAST_VARIANCE, MOST_VARIANCE = 1e-4, 1e4
LEAST_LENGTH, MOST_LENGTH = 0.1, 10.0  # limits of a site's weights, relative to the detector's
MOST_SCORE = 1e3  # standardised log distances are tens at most
MOST_WEIGHT = 1e12  # cells as which the population counts in a slide's shift
NUMBERS = 5  # of a reference: nu, kappa, location, scale, t2
SUM = 1e-6  # by which the sum of weights may differ from 1
FIGURES = 6  # of a rate: mean, low, high, deviation, slides, cells
OF_THE_SITE = ("cells/scores", "cells/weights", "slides/scores", "slides/weights")


def of_the_detector(name: str) -> bool:
    """Return whether an array of a site's `OwnNormal` comes from its detector."""
    return name not in OF_THE_SITE and not name.startswith("prior/")


def without_detector(arrays: Arrays) -> Arrays:
    """Remove the detector's own arrays, which have a score for each fitted cell, from a site's."""
    return {
        name: values
        for name, values in arrays.items()
        if not (name.startswith("own/") and of_the_detector(name.removeprefix("own/")))
    }


def with_detector(arrays: Arrays, population: OwnNormal) -> Arrays:
    """Add its detector's own arrays to a site's arrays.

    Raises:
        UnfitError: the file has one of them too, with other values.
    """
    known = {k: v for k, v in population.to_arrays().items() if of_the_detector(k)}
    for name, values in below("own", arrays).items():
        if not of_the_detector(name):
            continue
        if name not in known:
            refuse(f"own/{name}", "there", "left out: the site's detector has nothing of that name")
        if not np.array_equal(values, known[name], equal_nan=True):
            refuse(f"own/{name}", "other values", "that of the site's detector")
    return arrays | nested("own", known)


def checked_site(
    arrays: Arrays,
    population: OwnNormal,
    *,
    counting: bool,
    discriminant: Discriminant | None = None,
) -> None:
    """Raise UnfitError if a site's normal has a field beyond its limit.

    The arrays are those after `with_detector`; ``population`` is that of the detector. ``counting``
    says whether the site has error rates of its own, ``discriminant`` is the detector's, where the
    site has one of its own.
    """
    own = below("own", arrays)
    wanted = {f"own/{name}" for name in population.to_arrays()}
    wanted |= {f"reference/{tap}/{part}" for tap in population.priors
               for part in ("means", "factor", "numbers")}  # fmt: skip
    if discriminant is not None:
        wanted |= {f"{DISCRIMINANT}/{name}" for name in discriminant.to_arrays()}
        _discriminant(DISCRIMINANT, arrays, discriminant)
    rest = {name: v for name, v in arrays.items() if not name.startswith("error_rates/")}
    exactly("site", rest, wanted)
    for kind in ("cells", "slides"):
        _calibration(f"own/{kind}", below(kind, own))
    for tap, prior in population.priors.items():
        _prior(f"own/prior/{tap}", own, tap, prior)
        _reference(f"reference/{tap}", arrays, prior)
    if counting:
        for threshold in ("counting", "dense"):
            _rates(f"error_rates/{threshold}", arrays)
    found = len(below("error_rates", arrays))
    if found != (10 if counting else 0):
        refuse("error_rates", f"{found} arrays", "those of the site's card")


def _calibration(field: str, arrays: Arrays) -> None:
    scores = arrays["scores"]
    if scores.ndim != 1 or not len(scores):
        refuse(f"{field}/scores", f"of shape {scores.shape}", "one score or more")
    named = nested(field, arrays)
    array(f"{field}/scores", named, scores.shape)
    weights = array(f"{field}/weights", named, scores.shape)
    for end in (scores.min(), scores.max()):
        number(f"{field}/scores", float(end), -MOST_SCORE, MOST_SCORE)
    if (np.diff(scores) < 0).any():
        refuse(f"{field}/scores", "out of order", "in ascending order")
    number(f"{field}/weights", float(weights.min()), 0.0, 1.0)
    number(f"the sum of {field}/weights", float(weights.sum()), 1 - SUM, 1 + SUM)


def _prior(field: str, own: Arrays, tap: str, population: Prior) -> None:
    named = {f"own/{name}": values for name, values in own.items()}
    d = len(population.within)
    _means(f"{field}/means", named, population)
    for part, known in (("within", population.within), ("between", population.between)):
        matrix = array(f"{field}/{part}", named, (d, d))
        _covariance(f"{field}/{part}", matrix, known)
    k = array(f"{field}/k", named, (1,))
    number(f"{field}/k", float(k[0]), 1 / MOST_WEIGHT, MOST_WEIGHT)


def _reference(field: str, arrays: Arrays, population: Prior) -> None:
    d = len(population.within)
    _means(f"{field}/means", arrays, population)
    factor = array(f"{field}/factor", arrays, (d, d))
    if np.triu(factor, 1).any() or not (factor.diagonal() > 0).all():
        refuse(f"{field}/factor", "no Cholesky factor", "lower triangular, its diagonal above 0")
    known = population.within + population.between
    most = float(np.sqrt(MOST_VARIANCE * np.trace(known)))
    number(f"{field}/factor", float(np.abs(factor).max()), 0.0, most)
    _covariance(f"{field}/factor", factor @ factor.T, known)
    numbers = arrays[f"{field}/numbers"]
    if numbers.dtype != np.float64 or numbers.shape != (NUMBERS,):
        refuse(f"{field}/numbers", f"{numbers.dtype} {numbers.shape}", f"{NUMBERS} float64")
    nu, kappa, location, scale, t2 = numbers.tolist()
    if (nu, kappa) != (1.0, np.inf) or not np.isnan(t2):
        refuse(f"{field}/numbers", numbers.tolist(), "1, infinity, location, scale and NaN")
    number(f"the location in {field}/numbers", location, -MOST_SCORE, MOST_SCORE)
    number(f"the scale in {field}/numbers", scale, 1 / MOST_SCORE**2, MOST_SCORE)


def _means(field: str, arrays: Arrays, population: Prior) -> None:
    """Compare class means with the population's, in deviations of its cells."""
    known = population.means
    found = arrays[field]
    if found.dtype != np.float64 or found.shape != known.shape:
        refuse(field, f"{found.dtype} of shape {found.shape}", f"float64 of shape {known.shape}")
    have = ~np.isnan(known[:, 0])
    if not np.isnan(found[~have]).all() or not np.isfinite(found[have]).all():
        refuse(field, "not finite", "finite for the classes that the detector knows")
    if not (far := _reach(population).far(found[have] - known[have])) <= MOST_DEVIATIONS:
        refuse(field, f"{far:.3g} deviations from the population",
               f"within {MOST_DEVIATIONS:g} deviations")  # fmt: skip


def _reach(population: Prior) -> Reach:
    variance = (population.within + population.between).diagonal()
    return Reach(np.zeros(len(variance)), np.sqrt(variance + variance.mean()))


def _covariance(field: str, matrix: Float, population: Float) -> None:
    semidefinite(field, matrix)
    try:
        cholesky(matrix, lower=True)
    except LinAlgError:
        refuse(field, "singular", "positive definite")
    share = float(np.trace(matrix) / np.trace(population))
    number(f"the trace of {field}, as a share of the population's", share,
           LEAST_VARIANCE, MOST_VARIANCE)  # fmt: skip


def _discriminant(field: str, arrays: Arrays, known: Discriminant) -> None:
    """Compare a site's discriminant with the fitted one, whose classes it has for the most part."""
    for tap, weights in known.weights.items():
        found = array(f"{field}/weights/{tap}", arrays, weights.shape)
        lengths = float(np.linalg.norm(found)), float(np.linalg.norm(weights))
        number(f"the length of {field}/weights/{tap}, as a share of the detector's",
               lengths[0] / lengths[1], LEAST_LENGTH, MOST_LENGTH)  # fmt: skip
        # Class means of a site lie on the same side of each other as those of fitted cells.
        number(f"the cosine of {field}/weights/{tap} and the detector's",
               float(found @ weights) / (lengths[0] * lengths[1]), 0.0, 1 + SUM)  # fmt: skip
    for value in array(f"{field}/numbers", arrays, (2,)).tolist():
        number(f"{field}/numbers", value, -MOST_SCORE, MOST_SCORE)


def _rates(field: str, arrays: Arrays) -> None:
    log_odds = array(f"{field}/log_odds", arrays, (1,))
    number(f"{field}/log_odds", float(log_odds[0]), THRESHOLDS[0], THRESHOLDS[-1])
    for kind in ("false", "found"):
        figures = array(f"{field}/{kind}/figures", arrays, (FIGURES,))
        for value in figures[:4].tolist():
            number(f"{field}/{kind}/figures", value, 0.0, 1.0)
        counts(f"{field}/{kind}/figures", {f"{field}/{kind}/figures": figures[4:]}, (2,))
        nodes = array(f"{field}/{kind}/nodes", arrays, (NODES,))
        if not ((nodes > 0) & (nodes < 1)).all() or (np.diff(nodes) < 0).any():
            refuse(f"{field}/{kind}/nodes", "no quantiles", "rising, between 0 and 1")


def checked_night(
    field: str,
    arrays: Arrays,
    population: OwnNormal,
    batches: tuple[str, ...],
    slides: int,
    cells: int,
) -> tuple[GroupStatistics, ErrorCounts]:
    """Check a night's contribution to its site, and return it.

    ``field`` names the night in messages. ``slides`` and ``cells`` are their numbers on the card;
    the file may leave single cells out.

    Raises:
        UnfitError: a field is beyond its limit.
    """
    other = {name: v for name, v in arrays.items() if not name.startswith(("groups/", "errors/"))}
    exactly(field, other, set())
    widths = {tap: prior.means.shape[1] for tap, prior in sorted(population.priors.items())}
    classes = len(next(iter(population.priors.values())).means)
    found = groups("groups", arrays, widths, classes, batches)
    number(f"{field}: slides in groups/keys", len(found.keys), 0, slides)
    number(f"{field}: cells in groups/n", float(found.n.sum()), 0, cells)
    for tap, prior in population.priors.items():
        known = np.nan_to_num(prior.means)
        away = (found.means[tap] - known)[found.n > 0]
        if not (far := _reach(prior).far(away)) <= MOST_DEVIATIONS:
            refuse(f"{field}: groups/means/{tap}", f"{far:.3g} deviations from the population",
                   f"within {MOST_DEVIATIONS:g} deviations")  # fmt: skip
        wide = float(np.trace(found.scatter[tap].sum(axis=0))) / max(float(found.n.sum()), 1.0)
        number(f"{field}: the trace of groups/scatter/{tap}, as a share of the population's",
               wide / float(np.trace(prior.within)), 0.0, MOST_VARIANCE)  # fmt: skip
    mine = below("errors", arrays)
    return found, checked_errors("errors", mine) if mine else ErrorCounts.empty()


def checked_errors(field: str, arrays: Mapping[str, Float]) -> ErrorCounts:
    """Check that error counts by slide are whole, fall with the threshold and name nobody."""
    exactly(field, arrays, {"slides", "negatives", "positives", "false", "found"})
    named = nested(field, arrays)
    text = texts(f"{field}/slides", named[f"{field}/slides"])
    names = tuple(text.split("\n")) if text else ()
    for name in names:
        pseudonym(f"{field}/slides", name or None)
    if list(names) != sorted(set(names)):
        refuse(f"{field}/slides", "out of order, or twice", "in ascending order, each slide once")
    tables = {}
    for kind, passing in (("negatives", "false"), ("positives", "found")):
        cells = tables[kind] = counts(f"{field}/{kind}", named, (len(names),), "i")
        table = tables[passing] = counts(
            f"{field}/{passing}", named, (len(names), len(THRESHOLDS)), "i"
        )
        if (np.diff(table, axis=1) > 0).any() or (table[:, 0] > cells).any():
            refuse(f"{field}/{passing}", "more than there are",
                   f"at most {field}/{kind}, falling with the threshold")  # fmt: skip
    return ErrorCounts(names, *(tables[k] for k in ("negatives", "positives", "false", "found")))
