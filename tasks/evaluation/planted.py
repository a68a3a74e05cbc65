"""Plant abnormal cells among the ordinary ones of a slide, and measure a night's results.

This is the full spectrum (OpenOOD 1.5, Zhang et al. 2023, arXiv 2306.09301): healthy cells of
another laboratory are ordinary, and only planted cells are abnormal. Every slide is scored as
`screen` scores it: by its own normal, at a laboratory if one is given, and by the distance to the
population.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.bundles import join, take
from tasks.detector.detector import Detector, score
from tasks.detector.slides.cell_score import SlideNormal
from tasks.detector.slides.normal import reference_rows
from tasks.detector.slides.own_normal import OwnNormal, slide_shift
from tasks.detector.slides.references import (
    NO_ROWS,
    CellScores,
    Reference,
    References,
    alone,
    fitted_reference,
    most_ordinary,
    references_of,
    score_cells,
)
from tasks.detector.slides.smears import A_NIGHT, ONE_SLIDE
from tasks.evaluation.metrics import (
    Interval,
    Metric,
    Subject,
    detection,
    interval,
    resampled,
    share,
)
from tasks.types import Float

OWN_NORMAL, LABORATORY_NORMAL, POPULATION = "own normal", "laboratory normal", "population"
ALPHAS = (0.05, 0.01)
REPEATS = 200
TRIALS = 20  # slides of only one kind
CELLS = 60  # of such a slide


@dataclass(frozen=True)
class Cells:
    """A set of n cells: features (n, d) by tap, classes as diagnosed, slides, digests of files."""

    taps: Mapping[str, NDArray[np.float32]]
    predicted: NDArray[np.intp]
    slides: NDArray[np.str_]
    image_ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.predicted)


class Normal(NamedTuple):
    """The normal of slides, and the reference of slides with too few cells, if there is one."""

    own: OwnNormal
    reference: SlideNormal | None


@dataclass(frozen=True)
class Judged:
    """The results for the cells of some slides.

    ``slide`` (n,) numbers the slides, ``planted`` (n,) marks planted cells. ``scores`` and
    ``p_values`` (n,) are by detector; so is ``shifted`` (S,), which marks slides further away than
    all fitted ones, or than all slides that calibrated the laboratory.
    """

    slide: NDArray[np.intp]
    planted: NDArray[np.bool_]
    scores: dict[str, Float]
    p_values: dict[str, Float]
    shifted: dict[str, NDArray[np.bool_]]


def plant(
    detector: Detector,
    hosts: Cells,
    things: Cells,
    share: float,
    *,
    own: bool,
    laboratory: Normal | None = None,
) -> Judged:
    """Plant things into every slide of some hosts, and score these slides.

    ``share`` is the largest planted share of a slide, in (0, 1); less if there are too few things.
    If they are the slides' ``own`` cells, changed, they replace the originals; otherwise things are
    drawn for every slide. With the normal of a ``laboratory``, slides are judged there too.
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
    return judge(detector, slides, truth, laboratory)


def judge(
    detector: Detector,
    slides: Sequence[Cells],
    planted: Sequence[NDArray[np.bool_]],
    laboratory: Normal | None = None,
) -> Judged:
    """Score slides, each by its own normal, with and without a laboratory, and by the population.

    They are one night: as in `screen`, a slide of too few cells is compared with all of them or
    with fitted slides, whichever are nearer, or, at a laboratory, with the laboratory.
    """
    assert detector.own is not None
    normals = {OWN_NORMAL: Normal(detector.own, None)}
    if laboratory is not None:
        normals[LABORATORY_NORMAL] = laboratory
    found: dict[str, list[Float]] = {name: [] for name in (*normals, POPULATION)}
    chances: dict[str, list[Float]] = {name: [] for name in found}
    shifted: dict[str, list[bool]] = {name: [] for name in normals}
    for name, normal in normals.items():
        for scores, is_shifted in screened(normal, slides):
            found[name].append(scores.abnormality)
            chances[name].append(scores.p_value)
            shifted[name].append(is_shifted)
    for cells in slides:
        by_all = score(detector, cells.taps)
        found[POPULATION].append(by_all.abnormality)
        chances[POPULATION].append(by_all.p_value)
    sizes = [len(cells) for cells in slides]
    return Judged(
        np.repeat(np.arange(len(slides)), sizes),
        np.concatenate([np.empty(0, bool), *planted]),
        {name: np.concatenate([np.empty(0), *parts]) for name, parts in found.items()},
        {name: np.concatenate([np.empty(0), *parts]) for name, parts in chances.items()},
        {name: np.asarray(each, bool) for name, each in shifted.items()},
    )


def screened(normal: Normal, slides: Sequence[Cells]) -> Iterator[tuple[CellScores, bool]]:
    """Score the cells of each slide of a night as `screen` does; yield whether it is shifted."""
    own, reference = normal
    fitted = fitted_reference(own)
    if reference is not None:
        fitted = Reference(reference, NO_ROWS, "laboratory")
    night = alone(None) if reference is not None else night_references(own, slides)
    start = 0
    for cells in slides:
        rows = np.arange(start, start + len(cells))
        start += len(cells)
        known = cells.taps, cells.predicted
        group = references_of(own, *known, rows, "slide", ONE_SLIDE)
        kept = None
        if group.known:
            kept = np.isin(rows, group.rows)
        if not group.own:
            candidates = [*night.known, fitted]
            group = alone(candidates[most_ordinary(own, candidates, *known, rows)])
        scores = score_cells(own, group, fitted, *known, rows)
        yield scores, bool(slide_shift(own, *known, kept).shifted)


def night_references(own: OwnNormal, slides: Sequence[Cells]) -> References:
    """Choose the references of a night for cells of slides with too few cells."""
    if not slides:
        return alone(None)
    every = join(slides)
    rows = reference_rows(len(every))
    some = take(every, rows)
    return references_of(own, some.taps, some.predicted, rows, "night", A_NIGHT)


def by_slide(hosts: Cells) -> list[Cells]:
    """Divide cells into their slides."""
    return [take(hosts, np.flatnonzero(hosts.slides == name)) for name in np.unique(hosts.slides)]


def whole_slides(things: Cells) -> list[Cells]:
    """Make slides of nothing but some things, each drawn separately."""
    return [
        take(things, np.random.default_rng(trial).permutation(len(things))[:CELLS])
        for trial in range(TRIALS)
    ]


def planted_metrics(subject: Subject, judged: Judged) -> list[Metric]:
    """Measure catches and false alarms, with intervals from resampled slides."""
    if not judged.planted.any():
        return []
    n, m = int((~judged.planted).sum()), int(judged.planted.sum())
    weights = resampled(judged.slide, REPEATS)
    found = []
    for name, scores in judged.scores.items():
        # A cell without a score counts as not found.
        known = np.nan_to_num(scores, nan=-np.inf)
        whole = detection(judged.planted, known)["AUROC"]
        draws = detection(judged.planted, known, weights)["AUROC"]
        found.append(Metric(subject, name, "AUROC", interval(float(whole[0]), draws), m, n))
        for alpha in ALPHAS:
            alarm = judged.p_values[name] <= alpha
            caught, false = (
                share(alarm[kind], weights[:, kind]) for kind in (judged.planted, ~judged.planted)
            )
            found.append(Metric(subject, name, f"caught at {alpha:g}", caught, m, n))
            found.append(Metric(subject, name, f"false alarms at {alpha:g}", false, m, n))
    return found


def alarm_metrics(subject: Subject, judged: Judged) -> list[Metric]:
    """Measure how often ordinary cells are abnormal by slide: mean, deviation and worst."""
    slides = len(judged.shifted[OWN_NORMAL])
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
    return [*found, *_shifted(subject, judged)]


def whole_metrics(subject: Subject, judged: Judged) -> list[Metric]:
    """Measure how many slides of only one kind are found as slides."""
    cells = [
        Metric(subject, name, "cells abnormal at 0.05", Interval(float(np.mean(p <= 0.05))), len(p))
        for name, p in judged.p_values.items()
    ]
    return [*_shifted(subject, judged), *cells]


def _shifted(subject: Subject, judged: Judged) -> list[Metric]:
    return [
        Metric(subject, name, "slides shifted", Interval(float(shifted.mean())), len(shifted))
        for name, shifted in judged.shifted.items()
    ]
