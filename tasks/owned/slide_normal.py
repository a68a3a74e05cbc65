"""A slide's own normal: what its cells are like, and how far each is from that.

The distance of a cell to the population is how far its slide is from the population (stain, camera,
light) and how far the cell is from its slide. Here the second is told alone, and the first once for
each slide.

A slide's shift d and covariance S are the posterior of a normal-inverse-Wishart prior (Murphy
2007, section 9; Gelman et al., BDA3, section 3.6), in which the population weighs k cells in the
shift and v in the covariance. With n cells kept, whose residuals r = f - m_c have the mean rbar and
the scatter M, d = n rbar / (n + k), V = v W + M + k n / (n + k) rbar rbar^T and S = V / (v + n). A
cell is left out of its own reference by the same formulas read backwards.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from tasks.calibration import Calibration, abnormality, calibrate, log_distance, p_values
from tasks.owned.groups import Components, GroupStatistics, residual_means

Float = NDArray[np.float64]
Flags = NDArray[np.bool_]
Taps = Mapping[str, NDArray[np.floating]]
Level = Literal["slide", "site", "population"]

BLOCK = 4096  # cells that are scored together, whatever parts a slide comes in
MOST_REFERENCE = 5_000  # cells that a reference is made of, spread evenly over the slide
NORMAL_MAD = 1.4826  # a normal deviation over its median absolute deviation
NORMAL_HALF = 0.6745  # half the length of the shortest half of a normal sample, in deviations
LEAST_SCALE = 1e-6  # of log distances, where they do not vary


@dataclass(frozen=True)
class Choices:
    """What was chosen, by fitted patients and the same ones shifted, never by foreign images.

    A smaller ``cut`` catches more where a third of a slide is alike and strange, and calls more of
    a slide abnormal whose cells vary more than fitted ones; so does a larger ``v``. ``lean_*`` are
    what empirical Bayes gives: the sampling variance for one cell over the variance between
    patients. `tests/benchmarks/own_normal_trial.py` has the tables.

    Attributes:
        v: cells that the prior weighs in a slide's covariance.
        cut: standardised log distance beyond which a cell is no part of the reference.
        rounds: of trimming, to the core and again by the cut.
        core: share of the cells that the first rounds keep, and the least that later ones do.
        lean_location: cells that fitted slides weigh in the location of log distances.
        lean_scale: the same for their scale, which differs less between slides.
        slides: that the population weighs in how a site's slides differ.
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


@dataclass(frozen=True)
class Prior:
    """What is known of a slide before it is seen, at one tap: of the population, or of its site.

    ``means`` (C, d) are those of the classes, NaN for a class without cells; ``within`` W and
    ``between`` B (d, d); ``k`` cells are what the population weighs in the shift. ``location`` and
    ``scale`` are what the log distances of a slide's own cells usually have.
    """

    means: Float
    within: Float
    between: Float
    k: float
    location: float = float("nan")
    scale: float = float("nan")


@dataclass(frozen=True)
class TapNormal:
    """A slide's reference at one tap.

    ``means`` (C, d) are the classes' where the slide is; ``factor`` (d, d) is lower triangular with
    V = L L^T and S = V / ``nu``; ``kappa`` is n + k, infinite where no cell is in the reference.
    ``location`` and ``scale`` standardise log distances; ``t2`` is how far the slide is.
    """

    means: Float
    factor: Float
    nu: float
    kappa: float
    location: float
    scale: float
    t2: float


@dataclass(frozen=True)
class SlideNormal:
    """A slide's reference at all taps.

    ``level`` says what it is: the slide's own, that of its site, or the population's. ``kept`` (n,)
    are the cells that the reference is made of, of those it was given.
    """

    taps: dict[str, TapNormal]
    level: Level
    kept: Flags


def prior_of(components: Components) -> Prior:
    """The population as a prior of its slides."""
    return Prior(components.means, components.within, components.between, components.k)


# --- How far the slide is ------------------------------------------------------------------------


def shift_distance(prior: Prior, n: float, mean: Float) -> float:
    """T^2 = rbar^T (B + W / n)^-1 rbar of a slide of n cells with the mean residual rbar (d,).

    For a slide of the population it is chi-squared with d degrees of freedom (Hotelling 1931).
    """
    factor = cholesky(prior.between + prior.within / n, lower=True)
    white = solve_triangular(factor, mean, lower=True)
    return float(white @ white)


def shift_distances(priors: Mapping[str, Prior], statistics: GroupStatistics) -> Float:
    """T^2 (G, T) of every group, from its counts and means alone; taps in rising order."""
    columns = []
    for tap in statistics.taps:
        count, residuals = residual_means(statistics, tap, priors[tap].means)
        pairs = zip(count.tolist(), residuals, strict=True)
        columns.append([shift_distance(priors[tap], n, mean) for n, mean in pairs])
    return np.asarray(columns).T.reshape(len(statistics.keys), len(columns))


# --- The reference -------------------------------------------------------------------------------


def slide_normal(
    priors: Mapping[str, Prior],
    taps: Taps,
    predicted: NDArray[np.integer],
    choices: Choices | None = None,
    site: SlideNormal | None = None,
) -> SlideNormal:
    """The reference of a slide's cells, without those that are not like the others.

    Shift, covariance, distances, and which cells are kept, are found in turn. The first rounds keep
    the ``core``, the later ones what is not beyond the ``cut``: of a clean slide nearly all.

    Args:
        priors: by tap.
        taps: features (n, d) of every tap in ``priors``; a cell with one not finite is left out.
        predicted: (n,) classes as diagnosed; a cell with a negative one is left out.
        choices: what the trimming goes by.
        site: the reference that a slide of few cells leans on, made of its site's cells by this
            same function; without one it leans on the prior.
    """
    choices = choices or Choices()
    usable = usable_rows(priors, taps, predicted)
    if int(usable.sum()) < choices.least:
        return _leaning(priors, taps, predicted, usable, site)
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
    """References, and which cells (n,) they are made of."""
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
                location, scale = _spread(priors[tap], logs[kept], choices)
            z.append((logs - location) / scale)
        fused = np.max(z, axis=0)
        core = float(np.quantile(fused, choices.core))
        # The core is kept whatever its distances: fewer cells would be no slide.
        kept = fused <= (core if step < choices.rounds else max(core, choices.cut))
        normals = {t: _posterior(priors[t], r[kept], choices.v) for t, r in residuals.items()}
    for tap, normal in normals.items():
        logs = log_distance(squared_distances(normal, features[tap], classes, kept))
        location, scale = _spread(priors[tap], logs[kept], choices)
        normals[tap] = replace(normal, location=location, scale=scale)
    return normals, kept


def usable_rows(
    references: Mapping[str, Prior] | Mapping[str, TapNormal],
    taps: Taps,
    predicted: NDArray[np.integer],
) -> Flags:
    """Which cells (n,) can be scored: with finite features, and of a class that was fitted."""
    predicted = np.asarray(predicted)
    usable = predicted >= 0
    for tap, reference in references.items():
        usable &= np.isfinite(taps[tap]).all(axis=1)
        usable &= ~np.isnan(reference.means[:, 0])[np.where(predicted >= 0, predicted, 0)]
    return np.asarray(usable)


def _start(prior: Prior, residuals: Float) -> TapNormal:
    """The first reference: the median residual, and the population's covariance."""
    means = prior.means + np.median(residuals, axis=0)
    nan = float("nan")
    return TapNormal(means, cholesky(prior.within, lower=True), 1.0, np.inf, nan, nan, nan)


def _posterior(prior: Prior, residuals: Float, v: float) -> TapNormal:
    """The reference that kept residuals (n, d) make.

    Where a slide is farther than slides of the population are, as many times as its T^2 is more
    than expected, the prior of its shift weighs as many times less: a shift that the prior did not
    foresee is not drawn back to it, as under a heavy-tailed one.
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


def _leaning(
    priors: Mapping[str, Prior],
    taps: Taps,
    predicted: NDArray[np.integer],
    usable: Flags,
    site: SlideNormal | None = None,
) -> SlideNormal:
    """The reference of a slide of few cells: its site's, or the prior's, cells varying by W + B."""
    normals = {}
    for tap, prior in sorted(priors.items()):
        t2 = float("nan")
        if usable.any():
            rows = np.asarray(taps[tap][usable], np.float64)
            mean = (rows - prior.means[np.asarray(predicted)[usable]]).mean(axis=0)
            t2 = shift_distance(prior, float(usable.sum()), mean)
        if site is None:
            factor = cholesky(prior.within + prior.between, lower=True)
            normals[tap] = TapNormal(prior.means, factor, 1.0, np.inf, 0.0, 1.0, t2)
        else:
            normals[tap] = replace(site.taps[tap], t2=t2)
    return SlideNormal(normals, "site" if site else "population", np.zeros(len(usable), bool))


def shortest_half(values: Float) -> tuple[float, float]:
    """Location and scale of the shortest interval that half the values (n,) are in.

    It stays where most values are while fewer than half are elsewhere (Rousseeuw & Leroy 1988).
    """
    ordered = np.sort(values)
    half = len(ordered) // 2 + 1
    lengths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    low = int(np.argmin(lengths))
    location = (ordered[low] + ordered[low + half - 1]) / 2
    return float(location), max(float(lengths[low]) / (2 * NORMAL_HALF), LEAST_SCALE)


def _spread(prior: Prior, values: Float, choices: Choices) -> tuple[float, float]:
    """The location and scale of log distances: median and 1.4826 MAD, leaning on fitted slides'."""
    location = float(np.median(values))
    scale = max(NORMAL_MAD * float(np.median(abs(values - location))), LEAST_SCALE)
    if not np.isfinite(prior.location):
        return location, scale
    n = len(values)
    by_place, by_width = n / (n + choices.lean_location), n / (n + choices.lean_scale)
    drawn = by_width * np.log(scale) + (1 - by_width) * np.log(prior.scale)
    return by_place * location + (1 - by_place) * prior.location, float(np.exp(drawn))


def site_prior(prior: Prior, statistics: GroupStatistics, tap: str, choices: Choices) -> Prior:
    """The prior of a site's slides: the same posterior one level up, from statistics of the site.

    The population is one slide more in where the site is, unless the site is farther than slides
    of the population are; it is ``v`` cells in W and ``slides`` slides in B.

    Args:
        prior: the population.
        statistics: of the cells that references of the site's slides were made of, by slide.
        tap: which.
        choices: what the population weighs.
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
    found = Components(prior.means + shift, within, between, len(count))
    return replace(prior_of(found), location=prior.location, scale=prior.scale)


# --- How far a cell is from its slide ------------------------------------------------------------


def squared_distances(
    normal: TapNormal,
    features: NDArray[np.floating],
    predicted: NDArray[np.integer],
    weighs: Flags,
) -> Float:
    """Squared distances (n,) to the nearest class, of each cell by a reference without it.

    Taking a cell out is exact: with kappa = n + k and u = (r - d) kappa / (kappa - 1),
    V_-i = V - (kappa - 1) / kappa u u^T and d_-i = d - u / kappa (Murphy 2007, read backwards).

    Args:
        normal: the reference.
        features: (n, d).
        predicted: (n,) the classes that the cells' residuals were taken from.
        weighs: (n,) whether each is part of the reference.
    """
    centre = np.nanmean(normal.means, axis=0)
    white = _whiten(normal.factor, np.asarray(features, np.float64) - centre)
    targets = _whiten(normal.factor, normal.means - centre)
    have = np.flatnonzero(~np.isnan(normal.means[:, 0]))
    nearest = np.full(len(white), np.inf)
    inside = np.flatnonzero(weighs)
    share = (normal.kappa - 1) / normal.kappa if np.isfinite(normal.kappa) else 1.0
    own = (white[inside] - targets[np.asarray(predicted)[inside]]) / share
    squared = np.einsum("ij,ij->i", own, own)
    room = np.maximum(1 - share * squared, np.finfo(np.float64).eps)
    for c in have:
        away = white - targets[c]
        distance = normal.nu * np.einsum("ij,ij->i", away, away)
        if len(inside):
            left = away[inside] + own / normal.kappa
            product = np.einsum("ij,ij->i", left, own)
            plain = np.einsum("ij,ij->i", left, left)
            distance[inside] = (normal.nu - 1) * (plain + share * product**2 / room)
        nearest = np.minimum(nearest, distance)
    return nearest


def standardised_distances(
    normal: SlideNormal, taps: Taps, predicted: NDArray[np.integer], weighs: Flags
) -> Float:
    """Standardised log distances (n, T) of a slide's cells; NaN where a cell cannot be scored.

    Args:
        normal: the slide's reference.
        taps: features (n, d).
        predicted: (n,) classes as diagnosed.
        weighs: (n,) whether each cell is part of the reference, as in its ``kept``.
    """
    usable = usable_rows(normal.taps, taps, predicted)
    found = np.full((len(usable), len(normal.taps)), np.nan)
    classes = np.asarray(predicted)[usable]
    for column, (tap, own) in enumerate(sorted(normal.taps.items())):
        distances = squared_distances(own, taps[tap][usable], classes, weighs[usable])
        found[usable, column] = (log_distance(distances) - own.location) / own.scale
    return found


def reference_rows(n: int, most: int = MOST_REFERENCE) -> NDArray[np.intp]:
    """Which of a slide's n cells its reference is made of: all, or ``most`` spread evenly."""
    return np.arange(min(n, most), dtype=np.intp) * n // max(min(n, most), 1)


Part = tuple[Taps, NDArray[np.integer], Flags]


def score_parts(normal: SlideNormal, parts: Iterable[Part]) -> Iterator[Float]:
    """`standardised_distances` of a slide that comes in parts, a block of `BLOCK` cells at a time.

    Parts of any size are cut into the same blocks, so that no bit depends on how a slide was read,
    and no more is held than a part and a block.
    """
    held: Part | None = None
    for part in parts:
        held = _joined(held, part)
        while len(held[1]) >= BLOCK:
            yield standardised_distances(normal, *_rows(held, slice(BLOCK)))
            held = _rows(held, slice(BLOCK, None))
    if held is not None and len(held[1]):
        yield standardised_distances(normal, *held)


def _rows(part: Part, rows: slice) -> Part:
    taps, predicted, weighs = part
    return {tap: x[rows] for tap, x in taps.items()}, predicted[rows], weighs[rows]


def _joined(a: Part | None, b: Part) -> Part:
    if a is None or not len(a[1]):
        return b
    taps = {tap: np.concatenate([a[0][tap], b[0][tap]]) for tap in b[0]}
    return taps, np.concatenate([a[1], b[1]]), np.concatenate([a[2], b[2]])


def _whiten(factor: Float, rows: Float) -> Float:
    """L^-1 applied to every row, (n, d)."""
    return np.asarray(solve_triangular(factor, rows.T, lower=True, check_finite=False)).T


# --- Calibration ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class FittedSlide:
    """What a fitted slide (or patient) tells of slides that are scored, by a prior without it.

    ``deviations`` (n, T) are its cells' log distances, standardised by its own ``location`` and
    ``scale`` (T,), NaN where it has too few cells; ``kept`` counts those in its reference;
    ``population`` (n, T) are log distances to the prior; ``log_t2`` (T,) is how far the slide is.
    """

    deviations: Float
    location: Float
    scale: Float
    kept: int
    population: Float
    log_t2: Float


@dataclass(frozen=True)
class OwnCalibration:
    """What p-values are read from: of cells by their slide, of cells by the prior, and of slides.

    ``location`` and ``scale`` (T,) are those of fitted slides, for `Prior`.
    """

    cells: Calibration
    population: Calibration
    slides: Calibration
    location: Float
    scale: Float


def fitted_slide(
    priors: Mapping[str, Prior],
    taps: Taps,
    predicted: NDArray[np.integer],
    choices: Choices | None = None,
) -> FittedSlide:
    """Treat a fitted slide as one that is scored.

    It is done twice for all slides: with priors that have no location and scale, from which
    `slides_spread` finds these, and with priors that have them (`with_spread`).

    Args:
        priors: from the statistics without the slide, and without its patient.
        taps: features (n, d).
        predicted: (n,) classes as diagnosed, for that is what scoring has.
        choices: as scoring has them.
    """
    normal = slide_normal(priors, taps, predicted, choices)
    usable = usable_rows(priors, taps, predicted)
    mine = {tap: np.asarray(taps[tap][usable]) for tap in priors}
    classes, kept = np.asarray(predicted)[usable], normal.kept[usable]
    leaning = _leaning(priors, mine, classes, np.ones(len(classes), bool))
    population = standardised_distances(leaning, mine, classes, np.zeros(len(classes), bool))
    deviations = np.full_like(population, np.nan)
    own_level = normal.level == "slide"
    if own_level:
        deviations = standardised_distances(normal, mine, classes, kept)
    own = [normal.taps[tap] for tap in sorted(normal.taps)]
    return FittedSlide(
        deviations,
        np.asarray([tap.location if own_level else np.nan for tap in own]),
        np.asarray([tap.scale if own_level else np.nan for tap in own]),
        int(kept.sum()),
        population,
        log_distance(np.asarray([tap.t2 for tap in own])),
    )


def slides_spread(slides: Sequence[FittedSlide]) -> tuple[Float, Float]:
    """The usual location and scale (T,) of log distances, each slide weighing the same.

    Raises:
        ValueError: no fitted slide has enough cells for a normal of its own.
    """
    own = [slide for slide in slides if np.isfinite(slide.location).all()]
    if not own:
        raise ValueError("no fitted slide has enough cells for a normal of its own")
    location = np.mean([slide.location for slide in own], axis=0)
    return location, np.exp(np.mean([np.log(slide.scale) for slide in own], axis=0))


def own_calibration(slides: Sequence[FittedSlide]) -> OwnCalibration:
    """Calibrate on fitted slides, each of which weighs the same.

    Raises:
        ValueError: no fitted slide has enough cells for a normal of its own.
    """
    location, scale = slides_spread(slides)
    own = [slide.deviations for slide in slides if np.isfinite(slide.location).all()]
    return OwnCalibration(
        calibrate(np.concatenate(own), _numbered([len(z) for z in own])),
        calibrate(
            np.concatenate([slide.population for slide in slides]),
            _numbered([len(slide.population) for slide in slides]),
        ),
        calibrate(np.stack([slide.log_t2 for slide in slides]), np.arange(len(slides))),
        location,
        scale,
    )


def with_spread(priors: Mapping[str, Prior], location: Float, scale: Float) -> dict[str, Prior]:
    """Priors that know what location and scale (T,) fitted slides have."""
    spread = zip(location.tolist(), scale.tolist(), strict=True)
    return {
        tap: replace(prior, location=place, scale=width)
        for (tap, prior), (place, width) in zip(sorted(priors.items()), spread, strict=True)
    }


def _numbered(lengths: Sequence[int]) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(lengths)), lengths)


# --- Scores --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlideScores:
    """A slide's cells given the slide, and the slide given the prior.

    ``abnormality`` and ``p_value`` are (n,), NaN for cells that cannot be scored; ``shift`` is the
    fused score of the slide, ``shift_p_value`` its p-value, and ``beyond`` says that it is farther
    than any fitted slide. ``level`` is what cells were compared with.
    """

    abnormality: Float
    p_value: Float
    level: Level
    shift: float
    shift_p_value: float
    beyond: bool


def cell_scores(
    calibration: OwnCalibration, normal: SlideNormal, deviations: Float
) -> tuple[Float, Float]:
    """Abnormality and p-value (n,) of standardised log distances (n, T)."""
    level = calibration.population if normal.level == "population" else calibration.cells
    scores, p = (np.full(len(deviations), np.nan) for _ in "sp")
    known = ~np.isnan(deviations).any(axis=1)
    scores[known] = abnormality(level, deviations[known])
    p[known] = p_values(level, scores[known])
    return scores, p


def shift_scores(calibration: OwnCalibration, normal: SlideNormal) -> tuple[float, float, bool]:
    """A slide's shift, its p-value, and whether it is beyond every fitted slide's.

    With K fitted slides no p-value is below 1 / (K + 1). NaN where a slide has no usable cell.
    """
    t2 = np.asarray([[normal.taps[tap].t2 for tap in sorted(normal.taps)]])
    if np.isnan(t2).any():
        return float("nan"), float("nan"), False
    score = abnormality(calibration.slides, log_distance(t2))
    p = p_values(calibration.slides, score)
    return float(score[0]), float(p[0]), bool(score[0] > calibration.slides.scores[-1])


def score_slide(
    priors: Mapping[str, Prior],
    calibration: OwnCalibration,
    taps: Taps,
    predicted: NDArray[np.integer],
    choices: Choices | None = None,
    site: SlideNormal | None = None,
) -> SlideScores:
    """Score a slide that is held in memory; a larger one is scored by `score_parts`."""
    normal = slide_normal(priors, taps, predicted, choices, site)
    parts = list(score_parts(normal, [(taps, predicted, normal.kept)]))
    deviations = np.concatenate(parts) if parts else np.zeros((0, len(priors)))
    scores, p = cell_scores(calibration, normal, deviations)
    return SlideScores(scores, p, normal.level, *shift_scores(calibration, normal))
