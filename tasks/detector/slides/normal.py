"""Estimate a slide's own normal: the distribution of its cells, given how slides differ.

Slides differ by the random-effects model f = m_c + b + e, with b ~ N(0, B) by slide and e ~ N(0, W)
within it. This is the two-covariance model, which is PLDA with full-rank factors (Brummer & de
Villiers 2010). Its components depend only on statistics by slide (`prior_of`).

A slide's shift d and covariance S are the posterior of a normal-inverse-Wishart prior (Murphy
2007, section 9; Gelman et al., BDA3, section 3.6), in which the population counts as k cells in the
shift and v in the covariance. With n kept cells, whose residuals r = f - m_c have the mean rbar and
the scatter M, d = n rbar / (n + k), V = v W + M + k n / (n + k) rbar rbar^T and S = V / (v + n). A
cell is left out of its own reference by the same formulas read backwards
(``tasks.detector.slides.cell_score``).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.linalg import cholesky

from tasks.detector.calibration import log_distance
from tasks.detector.mahalanobis import LEAST_SHRINKAGE, oas_shrinkage, whitened
from tasks.detector.slides import cell_score
from tasks.detector.slides.cell_score import Prior, SlideNormal, TapNormal, Taps
from tasks.detector.slides.groups import GroupStatistics
from tasks.types import Float, Integers, Mask, Texts

ROUNDS = 5  # of weights and components in `prior_of`; four agree to a percent
LEAST_BETWEEN = 1e-3  # of W: the value of B if slides seem not to differ at all
NORMAL_MAD = 1.4826  # a normal deviation over its median absolute deviation
NORMAL_HALF = 0.6745  # half the length of the shortest half of a normal sample, in deviations
LEAST_SCALE = 1e-6  # of log distances that do not vary
LEAST = 30  # cells below which a slide has no normal of its own
# Chosen on fitted patients and shifted copies of them, never on foreign images. A smaller cut, or
# more cells of the prior, catches more if a third of a slide is strange in the same way, but calls
# more cells abnormal on a slide that varies more than fitted ones.
PRIOR_CELLS = 200.0  # cells as which the prior counts in a slide's covariance: v
PRIOR_SLIDES = 10.0  # slides as which the population counts in how a laboratory's slides differ
CUT = 2.5  # standardised log distance beyond which a cell is not in the reference
TRIMS = 2  # rounds of trimming, to the core and again by the cut
CORE = 0.6  # share of the cells that the first rounds keep, and later ones at least
# By empirical Bayes: the sampling variance for one cell over the variance between patients.
LEAN_LOCATION = 10.0  # cells as which fitted slides count in where log distances lie
LEAN_SCALE = 150.0  # the same for their scale, which differs less between slides


def within_covariance(statistics: GroupStatistics, tap: str) -> tuple[Float, float]:
    """Estimate W (d, d), not shrunk, and its degrees of freedom; ValueError if nothing varies."""
    degrees = float((statistics.n - 1).clip(min=0).sum())
    if degrees == 0:
        raise ValueError("no slide has two cells of a class: variation within slides is unknown")
    covariance = statistics.scatter[tap].sum(axis=0) / degrees
    if not np.trace(covariance) > 0:
        raise ValueError("the features are the same in every cell of a slide")
    return covariance, degrees


def class_means(statistics: GroupStatistics, tap: str, k: float) -> Float:
    """Solve Henderson's mixed-model equations (1975) for the class means (C, d), with W = k B.

    Plain means of cells would mistake differences between the patients of two classes for a
    difference between the classes; with a small k the difference is that within patients with both.
    NaN for an absent class.
    """
    n, means = statistics.n, statistics.means[tap]
    weight = n / (n.sum(axis=1, keepdims=True) + k)
    matrix = np.diag(n.sum(axis=0)) - weight.T @ n
    sums = n[:, :, None] * means
    right = sums.sum(axis=0) - np.einsum("gc,gd->cd", weight, sums.sum(axis=1))
    have = n.sum(axis=0) > 0
    solved = np.full(right.shape, np.nan)
    solved[have] = np.linalg.solve(matrix[np.ix_(have, have)], right[have])
    return solved


def residual_means(statistics: GroupStatistics, tap: str, means: Float) -> tuple[Float, Float]:
    """Compute counts (G,) of groups and mean residuals (G, d) from class means."""
    n = statistics.n
    beyond = n[:, :, None] * (statistics.means[tap] - np.nan_to_num(means))
    count = n.sum(axis=1)
    return count, beyond.sum(axis=1) / count[:, None]


def between_covariance(count: Float, residuals: Float, within: Float, weights: Float) -> Float:
    """Estimate B (d, d) by moments, not shrunk; it may have negative eigenvalues.

    With weights w and their sum s, E sum w (r - rbar)(r - rbar)^T is
    B (s - sum w^2 / s) + W sum w (1 - w / s) / n, whatever the weights (DerSimonian & Laird 1986).
    ``count`` (G,) are the cells of every group, ``residuals`` (G, d) their means; W is (d, d).
    """
    total = weights.sum()
    centred = residuals - weights @ residuals / total
    scatter = (weights[:, None] * centred).T @ centred
    noise = (weights * (1 - weights / total) / count).sum()
    return np.asarray((scatter - noise * within) / (total - (weights**2).sum() / total))


def between_laboratories(
    count: Float, residuals: Float, within: Float, weights: Float, owners: Texts
) -> Float:
    """Estimate B (d, d) in two levels, and shrink each: slides of a laboratory, and laboratories.

    Slides are compared with their own laboratory, the laboratories' means with each other. A few
    laboratories show few directions, so their share leans towards a multiple of W. The arguments
    are those of `between_covariance`, and the ``owners`` (G,) of groups; one at least has several.
    """
    names, owner = np.unique(owners, return_inverse=True)
    parts = [np.flatnonzero(owner == number) for number in range(len(names))]
    several = [part for part in parts if len(part) > 1]
    raw = [between_covariance(count[p], residuals[p], within, weights[p]) for p in several]
    degrees = np.asarray([len(part) - 1.0 for part in several])
    pooled = np.average(raw, axis=0, weights=degrees)
    slides = shrunk_between(pooled, within, int(degrees.sum()) + 1)
    shares = [weights[part] / weights[part].sum() for part in parts]
    means = np.stack([share @ residuals[part] for share, part in zip(shares, parts, strict=True)])
    centred = means - means.mean(axis=0)
    # The mean of few slides varies although its laboratory does not.
    noise = np.mean([(share**2).sum() for share in shares])
    raw_means = centred.T @ centred / (len(names) - 1) - noise * slides
    return slides + shrunk_between(raw_means, within, len(names))


def priors_of(statistics: GroupStatistics) -> dict[str, Prior]:
    """Estimate `prior_of` every tap."""
    return {tap: prior_of(statistics, tap) for tap in statistics.taps}


def prior_of(statistics: GroupStatistics, tap: str) -> Prior:
    """Estimate the random-effects model of one tap, the prior of a slide; W and B are shrunk.

    A group weighs n / (n + k), which is best for W = k B; k and B are found in turn.
    ValueError if there are fewer than two groups, or nothing varies within them.
    """
    if len(statistics.keys) < 2:
        raise ValueError("one slide does not show how slides differ")
    covariance, degrees = within_covariance(statistics, tap)
    within = shrunk_within(covariance, degrees)
    owners = np.asarray([key.laboratory for key in statistics.keys])
    in_levels = 1 < len(set(owners.tolist())) < len(owners)
    k = 1.0
    for _ in range(ROUNDS):
        means = class_means(statistics, tap, k)
        count, residuals = residual_means(statistics, tap, means)
        weights = count / (count + k)
        if in_levels:
            between = between_laboratories(count, residuals, within, weights, owners)
        else:
            raw = between_covariance(count, residuals, within, weights)
            between = shrunk_between(raw, within, len(statistics.keys))
        k = cells_of_population(within, between)
    return Prior(means, within, between, k)


def cells_of_population(within: Float, between: Float) -> float:
    """Compute k, the population's weight in a slide's shift, in cells: d / tr(W^-1 B)."""
    return len(within) / max(float(np.trace(_whitened(within, between))), 1e-300)


def shrunk_within(covariance: Float, degrees: float) -> Float:
    """Shrink W towards a multiple of the identity (Chen et al. 2010), as in `tied_gaussian`."""
    d = len(covariance)
    shrinkage = max(oas_shrinkage(covariance, degrees), LEAST_SHRINKAGE)
    return np.asarray(
        (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    )


def shrunk_between(raw: Float, within: Float, groups: int) -> Float:
    """Shrink B towards a multiple of W, for the directions in which groups are uninformative.

    After whitening by W, negative eigenvalues are cut off and the rest are drawn towards their
    mean by the coefficient of Chen et al. (2010) for this number of groups.
    """
    factor = cholesky(within, lower=True)
    values, vectors = np.linalg.eigh(_whitened(within, raw))
    level = max(float(values.mean()), LEAST_BETWEEN)
    values = values.clip(min=0.0)
    if values.sum() > 0:
        values *= level * len(values) / values.sum()  # cutting off must not increase the trace
    shrinkage = oas_shrinkage(np.diag(values), groups - 1.0) if values.sum() > 0 else 1.0
    values = (1 - shrinkage) * values + shrinkage * level
    back = factor @ vectors
    return np.asarray((back * values) @ back.T)


def _whitened(within: Float, matrix: Float) -> Float:
    factor = cholesky(within, lower=True)
    full = whitened(factor, whitened(factor, matrix).T)
    return np.asarray((full + full.T) / 2)


def shift_distance(prior: Prior, n: float, mean: Float) -> float:
    """Compute T^2 = rbar^T (B + W / n)^-1 rbar of n cells with mean residual rbar (d,)."""
    return float(prior.axes.squared(mean, n))


def slide_normal(
    priors: Mapping[str, Prior], taps: Taps, predicted: Integers, least: int = LEAST
) -> SlideNormal:
    """Fit the reference of a slide's cells, without outliers; of few cells, it is `leaning`.

    Shift, covariance, distances and kept cells are updated in turn. The first rounds keep the
    `CORE`, later ones every cell within the `CUT`: nearly all cells of a clean slide. A cell is
    left out if a feature (n, d) is not finite, or its ``predicted`` class (n,) negative.
    """
    usable = cell_score.usable_rows(priors, taps, predicted)
    if int(usable.sum()) < least:
        return leaning(priors, taps, predicted, usable)
    features = {tap: np.asarray(taps[tap][usable], np.float64) for tap in sorted(priors)}
    normals, kept = _trimmed(priors, features, np.asarray(predicted)[usable])
    everywhere = np.zeros(len(usable), bool)
    everywhere[usable] = kept
    return SlideNormal(normals, "slide", everywhere)


def _trimmed(
    priors: Mapping[str, Prior], features: Mapping[str, Float], classes: Integers
) -> tuple[dict[str, TapNormal], Mask]:
    residuals = {tap: x - priors[tap].means[classes] for tap, x in features.items()}
    normals = {}
    for tap, r in residuals.items():  # first by the median residual, the population's covariance
        means, within = priors[tap].means + np.median(r, axis=0), priors[tap].within
        normals[tap] = TapNormal(means, cholesky(within, lower=True), 1.0, np.inf, *[np.nan] * 3)
    kept = np.zeros(len(classes), bool)
    for step in range(2 * TRIMS + 1):
        logs, z = _logs(normals, features, classes, kept), []
        for tap, some in logs.items():
            if step <= TRIMS:
                location, scale = shortest_half(some)
                scale = priors[tap].scale if np.isfinite(priors[tap].scale) else scale
            else:
                location, scale = leaning_spread(priors[tap], some[kept])
            z.append((some - location) / scale)
        fused = np.max(z, axis=0)
        core = float(np.quantile(fused, CORE))
        # The core is always kept: fewer cells would not represent the slide.
        before, kept = kept, fused <= (core if step < TRIMS else max(core, CUT))
        if step > TRIMS and np.array_equal(before, kept):
            break  # further rounds would repeat this one
        normals = {t: _posterior(priors[t], r[kept]) for t, r in residuals.items()}
    else:
        logs = _logs(normals, features, classes, kept)
    for tap, normal in normals.items():
        location, scale = leaning_spread(priors[tap], logs[tap][kept])
        normals[tap] = replace(normal, location=location, scale=scale)
    return normals, kept


def _logs(
    normals: Mapping[str, TapNormal], features: Mapping[str, Float], classes: Integers, kept: Mask
) -> dict[str, Float]:
    return {
        tap: log_distance(cell_score.squared_distances(normal, features[tap], classes, kept))
        for tap, normal in normals.items()
    }


def _posterior(prior: Prior, residuals: Float) -> TapNormal:
    """Compute the reference from kept residuals (n, d).

    If a slide's T^2 exceeds its expectation, the prior of its shift is weighted down by the same
    factor, as under a heavy-tailed prior: an unforeseen shift is not drawn back.
    """
    n, d = residuals.shape
    mean = residuals.mean(axis=0)
    t2 = shift_distance(prior, n, mean)
    k = prior.k / max(1.0, t2 / d)
    centred = residuals - mean
    scatter = PRIOR_CELLS * prior.within + centred.T @ centred
    scatter += k * n / (n + k) * np.outer(mean, mean)
    means, factor = prior.means + n / (n + k) * mean, cholesky(scatter, lower=True)
    return TapNormal(means, factor, PRIOR_CELLS + n, n + k, np.nan, np.nan, t2)


def leaning(
    priors: Mapping[str, Prior], taps: Taps, predicted: Integers, usable: Mask
) -> SlideNormal:
    """Make the reference of a slide of few cells, the prior with W + B."""
    normals, n = {}, float(usable.sum())
    residuals = cell_score.residuals_of(priors, taps, predicted, usable) if n else {}
    for tap, prior in sorted(priors.items()):
        t2 = shift_distance(prior, n, residuals[tap].mean(axis=0)) if n else np.nan
        factor = cholesky(prior.within + prior.between, lower=True)
        normals[tap] = TapNormal(prior.means, factor, 1.0, np.inf, 0.0, 1.0, t2)
    return SlideNormal(normals, "population", np.zeros(len(usable), bool))


def population_normal(priors: Mapping[str, Prior]) -> SlideNormal:
    """Make the reference of cells of an unknown slide: W + B."""
    return leaning(priors, {}, np.empty(0, np.intp), np.empty(0, bool))


def shortest_half(values: Float) -> tuple[float, float]:
    """Return location and scale from the shortest half of values (n,) (Rousseeuw & Leroy 1988)."""
    ordered = np.sort(values)
    half = len(ordered) // 2 + 1
    lengths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    low = int(np.argmin(lengths))
    location = (ordered[low] + ordered[low + half - 1]) / 2
    return float(location), max(float(lengths[low]) / (2 * NORMAL_HALF), LEAST_SCALE)


def leaning_spread(prior: Prior, values: Float) -> tuple[float, float]:
    """Estimate location and scale of log distances (n,): median and 1.4826 MAD, with a prior."""
    location = float(np.median(values))
    scale = max(NORMAL_MAD * float(np.median(abs(values - location))), LEAST_SCALE)
    if not np.isfinite(prior.location):
        return location, scale
    n = len(values)
    by_place, by_width = n / (n + LEAN_LOCATION), n / (n + LEAN_SCALE)
    drawn = by_width * np.log(scale) + (1 - by_width) * np.log(prior.scale)
    return by_place * location + (1 - by_place) * prior.location, float(np.exp(drawn))


def learned_prior(prior: Prior, statistics: GroupStatistics, tap: str) -> Prior:
    """Compute the prior of a laboratory's slides: the posterior one level up.

    ``statistics`` are by slide, of the cells in the slides' references. The population counts as
    one more slide in the laboratory's shift, unless the laboratory is further away than slides of
    the population; it counts as `PRIOR_CELLS` in W and `PRIOR_SLIDES` in B.
    """
    count, residuals = residual_means(statistics, tap, prior.means)
    weights = count / (count + prior.k)
    total = float(weights.sum())
    mean = weights @ residuals / total
    white = whitened(cholesky(prior.between, lower=True), mean)
    far = max(1.0, total / (1 + total) * float(white @ white) / len(mean))
    degrees = float((statistics.n - 1).clip(min=0).sum())
    within = PRIOR_CELLS * prior.within + statistics.scatter[tap].sum(axis=0)
    within /= PRIOR_CELLS + degrees
    centred = residuals - mean
    scatter = (weights[:, None] * centred).T @ centred
    between = (PRIOR_SLIDES * prior.between + scatter) / (PRIOR_SLIDES + len(count) - 1)
    shift = total / (total + 1 / far) * mean
    k = cells_of_population(within, between)
    return Prior(prior.means + shift, within, between, k, prior.location, prior.scale)
