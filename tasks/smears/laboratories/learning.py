"""Learn a laboratory's own normal: the posterior from its slides, and its calibration.

The statistics of a laboratory cover, by slide, the cells in the references of its slides. A slide
of few cells has no reference: of its cells, those count that resemble the others of its night. The
choice depends only on the night and the population, so nights merge and retract exactly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from tasks import bundles, types
from tasks.detector.calibration import Calibration, fuse, log_distance, standardised
from tasks.detector.detector import Detector, score
from tasks.detector.slides import cell_score, groups
from tasks.detector.slides.cell_score import Level, Prior, SlideNormal, Taps
from tasks.detector.slides.groups import GroupKey, GroupStatistics, reference_rows
from tasks.detector.slides.normal import (
    CUT,
    PRIOR_SLIDES,
    leaning_spread,
    learned_prior,
    population_normal,
    slide_normal,
)
from tasks.detector.slides.own_normal import OwnNormal

CELLS_A_SLIDE = 500  # for calibration, spread evenly over a slide
# For a reference on a night that a person vouches for; a screened slide needs more, because it may
# be spoilt. The population still counts as ten times as many in the covariance.
LEAST_CELLS = 10
# Other things by name, to judge as if they were cells of a slide: taps (m, d) and classes (m,).
Planted = dict[str, tuple[Taps, types.Index]]


@dataclass(frozen=True)
class NightNormal(bundles.Bundle):
    """The reference of a night's cells, and the rows (k,) of its batch in it."""

    normal: SlideNormal
    rows: types.Index


@dataclass(frozen=True)
class SlideCells:
    """The cells of one slide: their rows (n,), taps (n, d), and classes (n,) as diagnosed.

    Cells known to be something else, such as white cells by their nucleus, are not ``ordinary``
    (n,): they calibrate nothing and are never false alarms.
    """

    key: GroupKey
    rows: types.Index
    taps: Taps
    predicted: types.Index
    ordinary: types.Mask


@dataclass(frozen=True)
class Distances:
    """The log distances (n, T) of cells: standardised, from their slide; or from the laboratory."""

    values: types.Float
    level: Level


@dataclass(frozen=True)
class SlideEvidence:
    """The distances of a laboratory's slide under statistics without it.

    ``cells`` are the distances of its ``n`` ordinary cells from the slide or, with too few cells,
    from the laboratory; ``log_t2`` (T,) is the slide's distance. ``p_population`` and ``p_alone``
    (n,) are these cells' p-values without a laboratory, by the population and by their slide.
    ``planted`` are the distances of other things by name, as if they were cells of the slide.
    """

    key: GroupKey
    cells: Distances
    log_t2: types.Float
    p_population: types.Float
    p_alone: types.Float
    planted: dict[str, Distances]


def kept_statistics(
    own: OwnNormal, slide: SlideCells, classes: int, night: NightNormal | None
) -> GroupStatistics:
    """Compute the statistics of the cells that a laboratory learns from a slide.

    ``night`` is the reference of its night, for a slide of few cells; without it they add nothing.
    """
    normal = slide_normal(own.priors, slide.taps, slide.predicted)
    kept = normal.kept
    if normal.level != "slide" and night is not None and night.normal.level != "population":
        weighs = np.isin(slide.rows, night.rows)
        z = cell_score.standardised_distances(night.normal, slide.taps, slide.predicted, weighs)
        kept = np.nan_to_num(fuse(z), nan=np.inf) <= CUT
    labels = np.where(kept, slide.predicted, -1)
    taps = {tap: slide.taps[tap] for tap in sorted(own.priors)}
    return groups.group_statistics(taps, labels, [slide.key] * len(labels), classes)


def merged(parts: Iterable[GroupStatistics], like: OwnNormal) -> GroupStatistics:
    """Merge the statistics of nights in their order; empty statistics without nights."""
    widths = {tap: prior.means.shape[1] for tap, prior in sorted(like.priors.items())}
    nothing = groups.empty_groups(widths, len(next(iter(like.priors.values())).means))
    return reduce(groups.merge_groups, parts, nothing)


def learned_priors(own: OwnNormal, statistics: GroupStatistics) -> dict[str, Prior]:
    """Compute the prior of a laboratory's slides at every tap; without slides, the population's."""
    if not statistics.keys:
        return own.priors
    return {tap: learned_prior(prior, statistics, tap) for tap, prior in own.priors.items()}


def expected_normal(priors: Mapping[str, Prior]) -> SlideNormal:
    """Make the reference of cells of an unknown slide at a laboratory: W + B around its means.

    Location and scale are those that log distances usually have.
    """
    around = population_normal(priors)
    taps = {
        tap: replace(normal, location=priors[tap].location, scale=priors[tap].scale)
        for tap, normal in around.taps.items()
    }
    return replace(around, taps=taps, level="laboratory")


def slide_evidence(
    detector: Detector,
    statistics: GroupStatistics,
    slide: SlideCells,
    night: NightNormal | None,
    planted: Planted,
) -> SlideEvidence | None:
    """Judge a slide in a laboratory's statistics by these statistics without it.

    None if they are empty without it, or if it has no ordinary cell. The statistics include this
    slide; ``night`` is the reference of its night, with which a slide of few cells was learned.
    ``planted`` has other things by name: taps (m, d) and classes (m,) as diagnosed.
    """
    population = detector.own
    assert population is not None
    others = without(population, statistics, slide, night)
    rows = np.flatnonzero(
        cell_score.usable_rows(population.priors, slide.taps, slide.predicted) & slide.ordinary
    )
    rows = rows[reference_rows(len(rows), CELLS_A_SLIDE)]
    if not others.keys or not len(rows):
        return None
    priors = learned_priors(population, others)
    normal = slide_normal(priors, slide.taps, slide.predicted)
    alone = slide_normal(population.priors, slide.taps, slide.predicted)
    deviations = cell_score.standardised_distances(alone, slide.taps, slide.predicted, alone.kept)
    _, p_alone = cell_score.cell_scores(population.calibration, alone, deviations)
    distances = {}
    for name, (taps, classes) in planted.items():
        usable = np.flatnonzero(cell_score.usable_rows(population.priors, taps, classes))
        if len(usable):
            none = np.zeros(len(classes), bool)
            distances[name] = _distances(priors, normal, taps, classes, none, usable)
    return SlideEvidence(
        slide.key,
        _distances(priors, normal, slide.taps, slide.predicted, normal.kept, rows),
        log_distance(np.asarray([normal.taps[tap].t2 for tap in sorted(normal.taps)])),
        score(detector, {tap: x[rows] for tap, x in slide.taps.items()}).population_p_value,
        p_alone[rows],
        distances,
    )


def without(
    own: OwnNormal, statistics: GroupStatistics, slide: SlideCells, night: NightNormal | None
) -> GroupStatistics:
    """Remove a slide from its laboratory's statistics."""
    kept = kept_statistics(own, slide, statistics.classes, night)
    there = kept.keys and kept.keys[0] in statistics.keys
    return groups.retract_groups(statistics, kept) if there else statistics


def _distances(
    priors: Mapping[str, Prior],
    normal: SlideNormal,
    taps: Taps,
    predicted: types.Index,
    weighs: types.Mask,
    rows: types.Index,
) -> Distances:
    """Measure cells at ``rows`` from their slide or, without its reference, from the laboratory."""
    cells = {tap: np.asarray(taps[tap][rows], np.float64) for tap in priors}
    if normal.level == "slide":
        return Distances(
            cell_score.standardised_distances(normal, cells, predicted[rows], weighs[rows]), "slide"
        )
    expected, none = expected_normal(priors), np.zeros(len(rows), bool)
    logs = [
        log_distance(cell_score.squared_distances(normal, cells[tap], predicted[rows], none))
        for tap, normal in sorted(expected.taps.items())
    ]
    return Distances(np.stack(logs, axis=1), "laboratory")


def fused(own: OwnNormal, reference: SlideNormal, cells: Distances) -> types.Float:
    """Join the distances of cells to scores (n,) on the population's scale."""
    values = cells.values
    if cells.level == "laboratory":
        taps = [reference.taps[tap] for tap in sorted(reference.taps)]
        values = (values - [tap.location for tap in taps]) / [tap.scale for tap in taps]
    return fuse(standardised(own.calibration.cells, values))


def commissioned(
    detector: Detector, statistics: GroupStatistics, slides: Sequence[SlideEvidence]
) -> Detector:
    """Make the detector that scores a laboratory's cells and slides by a fitted one.

    Its slides have the laboratory's prior, both calibrations have its slides, and cells of slides
    with too few are compared with its reference. Each slide is judged without itself.
    """
    own = detector.own
    assert own is not None
    population, priors = own.calibration, learned_priors(own, statistics)
    reference = laboratory_reference(priors, slides)
    t2 = [fuse(standardised(population.slides, s.log_t2[np.newaxis])) for s in slides]
    calibration = replace(
        population,
        cells=mixed(population.cells, [fused(own, reference, s.cells) for s in slides]),
        slides=mixed(population.slides, t2),
    )
    return replace(detector, own=OwnNormal(priors, calibration, own.floor), reference=reference)


def laboratory_reference(
    priors: Mapping[str, Prior], slides: Sequence[SlideEvidence]
) -> SlideNormal:
    """Make the reference of a laboratory, with the location and scale of its log distances."""
    expected = expected_normal(priors)
    logs = [s.cells.values for s in slides if s.cells.level == "laboratory"]
    if not logs:
        return expected
    values = np.concatenate(logs)
    taps = {}
    for column, tap in enumerate(sorted(priors)):
        location, scale = leaning_spread(priors[tap], values[:, column])
        taps[tap] = replace(expected.taps[tap], location=location, scale=scale)
    return replace(expected, taps=taps)


def mixed(population: Calibration, slides: Sequence[types.Float]) -> Calibration:
    """Add a laboratory's slides to a calibration in which the population counts as
    `PRIOR_SLIDES`.

    So the population mostly calibrates a laboratory of few slides, and a laboratory of many
    calibrates itself. ``slides`` are fused scores (n,) of each, n not 0, with equal weights; the
    population's calibration has standardised them.
    """
    total = PRIOR_SLIDES + len(slides)
    scores = np.concatenate([population.scores, *slides])
    weights = np.concatenate(
        [
            population.weights * (PRIOR_SLIDES / total),
            *(np.full(len(s), 1 / (len(s) * total)) for s in slides),
        ]
    )
    order = np.argsort(scores, kind="stable")
    return Calibration(population.mean, population.deviation, scores[order], weights[order])
