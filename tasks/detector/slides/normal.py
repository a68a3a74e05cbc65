"""Estimate a slide's own normal: the distribution of its cells, and each cell's distance from it.

A cell's distance to the population has two parts: the slide's distance to the population (stain,
camera, light) and the cell's distance to its slide. Here they are scored separately, the first once
per slide.

A slide's shift d and covariance S are the posterior of a normal-inverse-Wishart prior (Murphy
2007, section 9; Gelman et al., BDA3, section 3.6), in which the population counts as k cells in the
shift and v in the covariance. With n kept cells, whose residuals r = f - m_c have the mean rbar and
the scatter M, d = n rbar / (n + k), V = v W + M + k n / (n + k) rbar rbar^T and S = V / (v + n). A
cell is left out of its own reference by the same formulas read backwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from tasks.detector.calibration import log_distance
from tasks.detector.slides.distance import (
    Flags,
    Prior,
    SlideNormal,
    TapNormal,
    Taps,
    squared_distances,
    usable_rows,
)
from tasks.detector.slides.groups import GroupStatistics
from tasks.detector.slides.random_effects import Components, residual_means
from tasks.types import Float

MOST_REFERENCE = 5_000  # cells in a reference, spread evenly over the slide
NORMAL_MAD = 1.4826  # a normal deviation over its median absolute deviation
NORMAL_HALF = 0.6745  # half the length of the shortest half of a normal sample, in deviations
LEAST_SCALE = 1e-6  # of log distances that do not vary


@dataclass(frozen=True)
class Choices:
    """Constants chosen on fitted patients and shifted copies of them, never on foreign images.

    A smaller ``cut`` or a larger ``v`` catches more if a third of a slide is strange in the same
    way, but calls more cells abnormal on a slide that varies more than fitted ones. ``lean_*`` come
    from empirical Bayes: the sampling variance for one cell over the variance between patients.
    `tests/benchmarks/own_normal_trial.py` has the tables.

    Attributes:
        v: cells as which the prior counts in a slide's covariance.
        cut: standardised log distance beyond which a cell is not in the reference.
        rounds: of trimming, to the core and again by the cut.
        core: share of the cells that the first rounds keep; later ones keep at least as many.
        lean_location: cells as which fitted slides count in the location of log distances.
        lean_scale: the same for their scale, which differs less between slides.
        slides: as which the population counts in how a laboratory's slides differ.
        least: cells below which a slide has no normal of its own.
    """

    v: float = 200.0
    cut: float = 2.5
    rounds: int = 2
    core: float = 0.6
    lean_location: float = 10.0
    lean_scale: float = 150.0
    slides: float = 10.0
    least: int = 30


def prior_of(components: Components) -> Prior:
    """Make the prior of slides from the population."""
    return Prior(components.means, components.within, components.between, components.k)


def shift_distance(prior: Prior, n: float, mean: Float) -> float:
    """Compute T^2 = rbar^T (B + W / n)^-1 rbar of n cells with the mean residual rbar (d,).

    For a slide of n cells from the population it is chi-squared with d degrees of freedom
    (Hotelling 1931).
    """
    factor = cholesky(prior.between + prior.within / n, lower=True)
    white = solve_triangular(factor, mean, lower=True)
    return float(white @ white)


def slide_normal(
    priors: Mapping[str, Prior],
    taps: Taps,
    predicted: NDArray[np.integer],
    choices: Choices | None = None,
    laboratory: SlideNormal | None = None,
) -> SlideNormal:
    """Fit the reference of a slide's cells, without outliers.

    Shift, covariance, distances and kept cells are updated in turn. The first rounds keep the
    ``core``, later ones every cell within the ``cut``: nearly all cells of a clean slide.

    Args:
        priors: by tap.
        taps: features (n, d) of every tap in ``priors``; a cell with one not finite is left out.
        predicted: (n,) classes as diagnosed; a cell with a negative one is left out.
        choices: of the trimming.
        laboratory: the reference for a slide of few cells, made by this function from the
            laboratory's cells; without it the prior is used.
    """
    choices = choices or Choices()
    usable = usable_rows(priors, taps, predicted)
    if int(usable.sum()) < choices.least:
        return leaning(priors, taps, predicted, usable, laboratory)
    features = {tap: np.asarray(taps[tap][usable], np.float64) for tap in sorted(priors)}
    normals, kept = _trimmed(priors, features, np.asarray(predicted)[usable], choices)
    everywhere = np.zeros(len(usable), bool)
    everywhere[usable] = kept
    return SlideNormal(normals, "slide", everywhere)


def _trimmed(
    priors: Mapping[str, Prior],
    features: Mapping[str, Float],
    classes: NDArray[np.intp],
    choices: Choices,
) -> tuple[dict[str, TapNormal], Flags]:
    """Fit references by tap, and mark the cells (n,) in them."""
    residuals = {tap: x - priors[tap].means[classes] for tap, x in features.items()}
    normals = {tap: _start(priors[tap], r) for tap, r in residuals.items()}
    kept = np.zeros(len(classes), bool)
    for step in range(2 * choices.rounds + 1):
        z = []
        for tap, normal in normals.items():
            logs = log_distance(squared_distances(normal, features[tap], classes, kept))
            if step <= choices.rounds:
                location, scale = shortest_half(logs)
                scale = priors[tap].scale if np.isfinite(priors[tap].scale) else scale
            else:
                location, scale = leaning_spread(priors[tap], logs[kept], choices)
            z.append((logs - location) / scale)
        fused = np.max(z, axis=0)
        core = float(np.quantile(fused, choices.core))
        # The core is always kept: fewer cells would not represent the slide.
        kept = fused <= (core if step < choices.rounds else max(core, choices.cut))
        normals = {t: _posterior(priors[t], r[kept], choices.v) for t, r in residuals.items()}
    for tap, normal in normals.items():
        logs = log_distance(squared_distances(normal, features[tap], classes, kept))
        location, scale = leaning_spread(priors[tap], logs[kept], choices)
        normals[tap] = replace(normal, location=location, scale=scale)
    return normals, kept


def _start(prior: Prior, residuals: Float) -> TapNormal:
    """Make the first reference: the median residual and the population's covariance."""
    means = prior.means + np.median(residuals, axis=0)
    nan = float("nan")
    return TapNormal(means, cholesky(prior.within, lower=True), 1.0, np.inf, nan, nan, nan)


def _posterior(prior: Prior, residuals: Float, v: float) -> TapNormal:
    """Compute the reference from kept residuals (n, d).

    If a slide's T^2 exceeds its expectation, the prior of its shift is weighted down by the same
    factor, as under a heavy-tailed prior: an unforeseen shift is not drawn back.
    """
    n, d = residuals.shape
    mean = residuals.mean(axis=0)
    t2 = shift_distance(prior, n, mean)
    k = prior.k / max(1.0, t2 / d)
    centred = residuals - mean
    scatter = v * prior.within + centred.T @ centred
    scatter += k * n / (n + k) * np.outer(mean, mean)
    factor = cholesky(scatter, lower=True)
    nan = float("nan")
    return TapNormal(prior.means + n / (n + k) * mean, factor, v + n, n + k, nan, nan, t2)


def leaning(
    priors: Mapping[str, Prior],
    taps: Taps,
    predicted: NDArray[np.integer],
    usable: Flags,
    laboratory: SlideNormal | None = None,
) -> SlideNormal:
    """Make the reference of a slide of few cells: its laboratory's, or the prior with W + B."""
    normals = {}
    for tap, prior in sorted(priors.items()):
        t2 = float("nan")
        if usable.any():
            rows = np.asarray(taps[tap][usable], np.float64)
            mean = (rows - prior.means[np.asarray(predicted)[usable]]).mean(axis=0)
            t2 = shift_distance(prior, float(usable.sum()), mean)
        if laboratory is None:
            factor = cholesky(prior.within + prior.between, lower=True)
            normals[tap] = TapNormal(prior.means, factor, 1.0, np.inf, 0.0, 1.0, t2)
        else:
            normals[tap] = replace(laboratory.taps[tap], t2=t2)
    return SlideNormal(
        normals, "laboratory" if laboratory else "population", np.zeros(len(usable), bool)
    )


def shortest_half(values: Float) -> tuple[float, float]:
    """Return location and scale from the shortest interval that contains half the values (n,).

    It stays with the majority while fewer than half of the values are elsewhere (Rousseeuw &
    Leroy 1988).
    """
    ordered = np.sort(values)
    half = len(ordered) // 2 + 1
    lengths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    low = int(np.argmin(lengths))
    location = (ordered[low] + ordered[low + half - 1]) / 2
    return float(location), max(float(lengths[low]) / (2 * NORMAL_HALF), LEAST_SCALE)


def leaning_spread(prior: Prior, values: Float, choices: Choices) -> tuple[float, float]:
    """Estimate location and scale of log distances (n,): median and 1.4826 MAD, with a prior."""
    location = float(np.median(values))
    scale = max(NORMAL_MAD * float(np.median(abs(values - location))), LEAST_SCALE)
    if not np.isfinite(prior.location):
        return location, scale
    n = len(values)
    by_place, by_width = n / (n + choices.lean_location), n / (n + choices.lean_scale)
    drawn = by_width * np.log(scale) + (1 - by_width) * np.log(prior.scale)
    return by_place * location + (1 - by_place) * prior.location, float(np.exp(drawn))


def learned_prior(prior: Prior, statistics: GroupStatistics, tap: str, choices: Choices) -> Prior:
    """Compute the prior of a laboratory's slides: the posterior one level up, from the laboratory's
    statistics.

    The population counts as one more slide in the laboratory's shift, unless the laboratory is
    further away than slides of the population; it counts as ``v`` cells in W and ``slides`` slides
    in B. ``statistics`` are those of the cells in the references of the laboratory's slides, by
    slide.
    """
    count, residuals = residual_means(statistics, tap, prior.means)
    weights = count / (count + prior.k)
    total = float(weights.sum())
    mean = weights @ residuals / total
    factor = cholesky(prior.between, lower=True)
    white = solve_triangular(factor, mean, lower=True)
    far = max(1.0, total / (1 + total) * float(white @ white) / len(mean))
    degrees = float((statistics.n - 1).clip(min=0).sum())
    within = choices.v * prior.within + statistics.scatter[tap].sum(axis=0)
    within /= choices.v + degrees
    centred = residuals - mean
    scatter = (weights[:, None] * centred).T @ centred
    between = (choices.slides * prior.between + scatter) / (choices.slides + len(count) - 1)
    shift = total / (total + 1 / far) * mean
    posterior = Components(prior.means + shift, within, between, len(count))
    return replace(prior_of(posterior), location=prior.location, scale=prior.scale)


def reference_rows(n: int, most: int = MOST_REFERENCE) -> NDArray[np.intp]:
    """Choose the cells of a slide's n for its reference: all, or ``most`` spread evenly."""
    return np.arange(min(n, most), dtype=np.intp) * n // max(min(n, most), 1)
