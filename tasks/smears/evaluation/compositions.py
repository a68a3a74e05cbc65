"""Compose slides and nights of strange and ordinary cells, and measure what a night would say.

This is the full spectrum (OpenOOD 1.5, Zhang et al. 2023, arXiv 2306.09301): healthy cells of
another laboratory are ordinary, and only the strange ones are abnormal. A composition has a share
of strange cells, from none to all, and is named (a night of slides, or of patients as slides)
or unnamed (each group is a night whose images name no slide). It is scored as `screen` scores it:
by the normal of its own slides, and by the distance to the population.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks import bundles, types
from tasks.detector.detector import Detector, score
from tasks.detector.slides import cell_score, night_smears, references
from tasks.detector.slides.groups import reference_rows
from tasks.detector.slides.own_normal import OwnNormal, slide_shift
from tasks.metrics.metrics import Interval, Result, Subject, detection, interval, resampled, share

OWN_NORMAL, POPULATION = "own normal", "population"
SHARES = (1.0, 0.9, 0.67, 0.5, 0.1)  # of strange cells
ALPHAS = (0.05, 0.01)
MOST = 500  # cells of a composed slide or night
NIGHTS = 3  # unnamed ones of a composition
SLIDES, CELLS = 20, 60  # named slides of strange cells alone, and their cells
REPEATS = 200


@dataclass(frozen=True)
class CellSet:
    """A set of n cells: features (n, d) by tap, classes as diagnosed, slides, digests, labels.

    Slides may be patients, and a cell without either is its own; labels are -1 if unknown.
    """

    taps: Mapping[str, types.Single]
    predicted: types.Index
    slides: types.Texts
    image_ids: types.Texts
    label: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.predicted)


class Mixture(NamedTuple):
    """A composed slide or unnamed night; ``strange`` (n,) marks its strange cells."""

    cells: CellSet
    strange: types.Mask


class GroupResults(NamedTuple):
    """The results of one detector for n cells of G groups.

    ``p_values`` (n,) are 0 for cells unlike any smear. ``shifted`` (G,) marks groups further away
    than all fitted slides, and ``no_smear`` (G,) groups that cannot be one; a detector that does
    not know slides has neither.
    """

    scores: types.Float
    p_values: types.Float
    shifted: types.Mask | None = None
    no_smear: types.Mask | None = None


@dataclass(frozen=True)
class JudgedGroups:
    """The results for the n cells of G groups, by detector.

    ``group`` (n,) numbers the groups, ``strange`` (n,) marks strange cells.
    """

    group: types.Index
    strange: types.Mask
    verdicts: dict[str, GroupResults]


def compose(
    ordinary: CellSet | None, strange: CellSet | None, share: float, *, named: bool
) -> list[Mixture]:
    """Compose groups of which a ``share`` is strange.

    Named groups are the slides of the ordinary cells. Strange cells that are ordinary ones, changed
    (they have the same digest), stay in their slides and take the originals' places. A group has as
    many cells as there are in this proportion, up to `MOST`; without any of a kind it is left out.
    """
    nothing = bundles.take(ordinary or strange, references.NO_ROWS)
    assert nothing is not None
    if ordinary is None:
        sources = [(nothing, strange or nothing)] * (SLIDES if named else NIGHTS)
    elif named:
        changed = strange is not None and np.isin(strange.image_ids, ordinary.image_ids).any()
        sources = [
            (
                _of_slide(ordinary, name),
                nothing if strange is None else _of_slide(strange, name) if changed else strange,
            )
            for name in np.unique(ordinary.slides)
        ]
    else:
        sources = [(ordinary, strange or nothing)] * NIGHTS
    most = CELLS if named and ordinary is None else MOST
    groups = [
        _group(*source, share, most, np.random.default_rng(number))
        for number, source in enumerate(sources)
    ]
    return [group for group in groups if group is not None]


def _of_slide(cells: CellSet, name: str) -> CellSet:
    return bundles.take(cells, np.flatnonzero(cells.slides == name))


def _group(
    ordinary: CellSet, strange: CellSet, share: float, most: int, rng: np.random.Generator
) -> Mixture | None:
    """Draw a group of at most ``most`` cells; None if one kind of cells is missing."""
    sizes = [(len(ordinary), 1 - share), (len(strange), share)]
    total = round(min([most, *(n / part for n, part in sizes if part)]))
    wanted = round(total * share)
    chosen = bundles.take(strange, rng.permutation(len(strange))[:wanted])
    left = bundles.take(ordinary, np.flatnonzero(~np.isin(ordinary.image_ids, chosen.image_ids)))
    beside = bundles.take(left, np.sort(rng.permutation(len(left))[: total - wanted]))
    if not total or bool(len(chosen)) != (share > 0) or bool(len(beside)) != (share < 1):
        return None
    cells = bundles.join([beside, chosen])
    return Mixture(cells, np.arange(len(cells)) >= len(beside))


def judge(detector: Detector, groups: Sequence[Mixture], *, named: bool) -> JudgedGroups:
    """Score groups by their own normal, and by the population."""
    cells, shifted, implausible = zip(*screened(detector, groups, named=named), strict=True)
    by_all = [score(detector, group.cells.taps) for group in groups]
    verdicts = {
        OWN_NORMAL: GroupResults(
            np.concatenate([each.abnormality for each in cells]),
            np.concatenate([np.where(each.unlike, 0.0, each.p_value) for each in cells]),
            np.asarray(shifted),
            np.asarray(implausible),
        ),
        POPULATION: GroupResults(
            np.concatenate([each.abnormality for each in by_all]),
            np.concatenate([each.p_value for each in by_all]),
        ),
    }
    return JudgedGroups(
        np.repeat(np.arange(len(groups)), [len(group.cells) for group in groups]),
        np.concatenate([group.strange for group in groups]),
        verdicts,
    )


def screened(
    detector: Detector, groups: Sequence[Mixture], *, named: bool
) -> Iterator[tuple[references.CellScores, bool, bool]]:
    """Score the cells of each group as `screen` does.

    A slide of too few cells is compared with the night or with fitted slides, whichever are nearer.
    Yield the scores, whether the group is shifted, and whether it is implausible as a smear.
    """
    own = detector.own
    assert own is not None
    fitted, night = references.fallback_reference(own, None), references.alone(None)
    if named and groups:
        night = _references(own, bundles.join([group.cells for group in groups]), 0, named=False)
    start = 0
    for cells, _ in groups:
        rows = np.arange(start, start + len(cells))
        features = cell_score.CellFeatures(cells.taps, cells.predicted, rows)
        group = _references(own, cells, start, named=named)
        implausible, kept = group.smears.implausible, None
        if named and group.known:
            kept = np.isin(rows, group.rows)
        if named and not group.own:
            candidates = [*night.known, fitted]
            nearest = references.most_ordinary(own, candidates, features)
            group = references.alone(candidates[nearest])
        scores = references.score_cells(own, group, fitted, features)
        shift = slide_shift(own, cells.taps, cells.predicted, kept)
        yield scores, bool(shift.shifted), implausible
        start += len(cells)


def _references(
    own: OwnNormal, cells: CellSet, start: int, *, named: bool
) -> references.References:
    """Choose the references of a slide, or of a night without names, whose first row is given."""
    rows = reference_rows(len(cells))
    some = bundles.take(cells, rows)
    kind = ("slide", night_smears.ONE_SLIDE) if named else ("night", night_smears.A_NIGHT)
    features = cell_score.CellFeatures(some.taps, some.predicted, start + rows)
    return references.references_of(own, features, *kind)


def measure(subject: Subject, judged: JudgedGroups) -> Iterator[Result]:
    """Measure catches and false alarms, with intervals from resampled groups."""
    strange = judged.strange
    n, m = int((~strange).sum()), int(strange.sum())
    weights = resampled(judged.group, REPEATS)
    for name, (scores, p_values, shifted, no_smear) in judged.verdicts.items():
        measured: dict[str, Interval] = {}
        if n and m:
            known = np.nan_to_num(scores, nan=-np.inf)
            whole, draws = (detection(strange, known, w)["AUROC"] for w in (None, weights))
            measured["AUROC"] = interval(float(whole[0]), draws)
        for alpha in ALPHAS:
            alarm, alarms = p_values <= alpha, f"false alarms at {alpha:g}"
            if m:
                measured[f"caught at {alpha:g}"] = share(alarm[strange], weights[:, strange])
            if n:
                measured[alarms] = share(alarm[~strange], weights[:, ~strange])
            if not m:
                measured |= {f"{alarms}, {k}": v for k, v in _by_group(judged.group, alarm).items()}
        for words, marks in (("shifted", shifted), ("no smear", no_smear)):
            if marks is not None:
                measured[words] = Interval(float(marks.mean()))
        for words, found in measured.items():
            yield Result(subject, name, words, found, m, n)


def _by_group(group: types.Index, alarm: types.Mask) -> dict[str, Interval]:
    """Compute mean, deviation and worst of the groups' shares of alarms."""
    rates = np.bincount(group, alarm) / np.bincount(group)
    draws = rates[np.random.default_rng(0).integers(0, len(rates), (REPEATS, len(rates)))]
    return {
        "mean of groups": interval(float(rates.mean()), draws.mean(axis=1)),
        "deviation of groups": interval(float(rates.std()), draws.std(axis=1)),
        "worst group": interval(float(rates.max()), draws.max(axis=1)),
    }
