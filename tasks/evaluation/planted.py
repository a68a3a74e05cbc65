"""Plant abnormal cells among the ordinary ones of a slide, and measure what a night would say.

This is the full spectrum (OpenOOD 1.5, Zhang et al. 2023, arXiv 2306.09301): healthy cells of
another laboratory are ordinary, and what is planted among them is abnormal. Every slide is scored
as `screen` scores it, by its own normal and by the distance to the population.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.detector.detector import Detector, score
from tasks.detector.own_normal import OwnNormal, score_slide
from tasks.detector.slide_distance import SlideNormal
from tasks.detector.slide_normal import reference_rows, slide_normal
from tasks.evaluation.metrics import Interval, Metric, Subject, detection, interval, resampled
from tasks.evaluation.parts import join, take
from tasks.types import Float

OWN_NORMAL, POPULATION = "own normal", "population"
ALPHAS = (0.05, 0.01)
REPEATS = 200
TRIALS = 20  # slides wholly of one kind
CELLS = 60  # of such a slide


@dataclass(frozen=True)
class Cells:
    """Hold n cells: features (n, d) by tap, classes as diagnosed, slides, and digests of files."""

    taps: Mapping[str, NDArray[np.float32]]
    predicted: NDArray[np.intp]
    slides: NDArray[np.str_]
    image_ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.predicted)


@dataclass(frozen=True)
class Judged:
    """Hold what is said of the cells of some slides.

    ``slide`` (n,) numbers the slides, ``planted`` (n,) marks what was planted. ``scores`` and
    ``p_values`` (n,) are by detector; ``shifted`` (S,) says which slides are farther than all
    fitted ones.
    """

    slide: NDArray[np.intp]
    planted: NDArray[np.bool_]
    scores: dict[str, Float]
    p_values: dict[str, Float]
    shifted: NDArray[np.bool_]


def plant(detector: Detector, hosts: Cells, things: Cells, share: float, *, own: bool) -> Judged:
    """Plant things into every slide of some hosts, and score these slides.

    Args:
        detector: has a normal of its slides.
        hosts: ordinary cells.
        things: the abnormal ones.
        share: of a slide that is planted at most, in (0, 1); less where there are too few things.
        own: the things are changed cells of the same slides, which take the place of the ordinary
            ones; otherwise every slide gets a draw of its own.
    """
    slides, truth = [], []
    for number, name in enumerate(np.unique(hosts.slides)):
        rng = np.random.default_rng(number)
        host = take(hosts, np.flatnonzero(hosts.slides == name))
        pool = take(things, np.flatnonzero(things.slides == name)) if own else things
        wanted = round(len(host) * share / (1 - share))
        planted = take(pool, rng.permutation(len(pool))[:wanted])
        if not len(planted):
            continue
        if own:
            host = take(host, np.flatnonzero(~np.isin(host.image_ids, planted.image_ids)))
        slides.append(join([host, planted]))
        truth.append(np.arange(len(slides[-1])) >= len(host))
    return judge(detector, slides, truth)


def judge(
    detector: Detector, slides: Sequence[Cells], planted: Sequence[NDArray[np.bool_]]
) -> Judged:
    """Score slides, each by its own normal and each cell by the population.

    They are one night: a slide of too few cells leans on all of them, as in `screen`.
    """
    assert detector.own is not None
    night = _night_normal(detector.own, slides)
    found: dict[str, list[Float]] = {OWN_NORMAL: [], POPULATION: []}
    chances: dict[str, list[Float]] = {OWN_NORMAL: [], POPULATION: []}
    shifted = []
    for cells in slides:
        priors, calibration = detector.own.priors, detector.own.calibration
        by_slide = score_slide(priors, calibration, cells.taps, cells.predicted, site=night)
        by_all = score(detector, cells.taps)
        for name, scores in ((OWN_NORMAL, by_slide), (POPULATION, by_all)):
            found[name].append(scores.abnormality)
            chances[name].append(scores.p_value)
        shifted.append(by_slide.beyond)
    sizes = [len(cells) for cells in slides]
    return Judged(
        np.repeat(np.arange(len(slides)), sizes),
        np.concatenate([np.empty(0, bool), *planted]),
        {name: np.concatenate([np.empty(0), *parts]) for name, parts in found.items()},
        {name: np.concatenate([np.empty(0), *parts]) for name, parts in chances.items()},
        np.asarray(shifted, bool),
    )


def _night_normal(own: OwnNormal, slides: Sequence[Cells]) -> SlideNormal | None:
    if not slides:
        return None
    every = join(slides)
    some = take(every, reference_rows(len(every)))
    night = slide_normal(own.priors, some.taps, some.predicted)
    return night if night.level == "slide" else None


def by_slide(hosts: Cells) -> list[Cells]:
    """Divide cells into their slides."""
    return [take(hosts, np.flatnonzero(hosts.slides == name)) for name in np.unique(hosts.slides)]


def whole_slides(things: Cells) -> list[Cells]:
    """Make slides that are wholly of some things, each of a draw of its own."""
    return [
        take(things, np.random.default_rng(trial).permutation(len(things))[:CELLS])
        for trial in range(TRIALS)
    ]


def planted_metrics(subject: Subject, judged: Judged) -> list[Metric]:
    """Measure what is caught and what is a false alarm, with intervals from resampled slides."""
    if not judged.planted.any():
        return []
    n, m = int((~judged.planted).sum()), int(judged.planted.sum())
    weights = resampled(judged.slide, REPEATS)
    found = []
    for name, scores in judged.scores.items():
        # A cell without a score is not found.
        known = np.nan_to_num(scores, nan=-np.inf)
        whole = detection(judged.planted, known)["AUROC"]
        draws = detection(judged.planted, known, weights)["AUROC"]
        found.append(Metric(subject, name, "AUROC", interval(float(whole[0]), draws), m, n))
        for alpha in ALPHAS:
            alarm = judged.p_values[name] <= alpha
            caught = _share(alarm, judged.planted, weights)
            false = _share(alarm, ~judged.planted, weights)
            found.append(Metric(subject, name, f"caught at {alpha:g}", caught, m, n))
            found.append(Metric(subject, name, f"false alarms at {alpha:g}", false, m, n))
    return found


def alarm_metrics(subject: Subject, judged: Judged) -> list[Metric]:
    """Measure how often ordinary cells are abnormal, slide by slide: mean, deviation and worst."""
    slides = len(judged.shifted)
    sizes = np.bincount(judged.slide, minlength=slides)
    draws = np.random.default_rng(0).integers(0, slides, (REPEATS, slides))
    found = []
    for name, chances in judged.p_values.items():
        for alpha in ALPHAS:
            rates = np.bincount(judged.slide, chances <= alpha, minlength=slides) / sizes
            kinds: dict[str, Callable[[Float], Float]] = {
                "mean": lambda x: x.mean(axis=-1),
                "deviation": lambda x: x.std(axis=-1),
                "worst": lambda x: x.max(axis=-1),
            }
            found += [
                Metric(
                    subject,
                    name,
                    f"{kind} at {alpha:g}",
                    interval(float(statistic(rates)), statistic(rates[draws])),
                    negatives=slides,
                )
                for kind, statistic in kinds.items()
            ]
    return [*found, _shifted(subject, judged)]


def whole_metrics(subject: Subject, judged: Judged) -> list[Metric]:
    """Measure how many slides that are wholly of one kind are found as slides."""
    cells = [
        Metric(subject, name, "cells abnormal at 0.05", Interval(float(np.mean(p <= 0.05))), len(p))
        for name, p in judged.p_values.items()
    ]
    return [_shifted(subject, judged), *cells]


def _shifted(subject: Subject, judged: Judged) -> Metric:
    share = Interval(float(judged.shifted.mean()))
    return Metric(subject, OWN_NORMAL, "slides shifted", share, len(judged.shifted))


def _share(alarm: NDArray[np.bool_], among: NDArray[np.bool_], weights: Float) -> Interval:
    with np.errstate(invalid="ignore"):
        draws = (weights @ (alarm & among)) / (weights @ among)
    return interval(float(alarm[among].mean()), draws)
