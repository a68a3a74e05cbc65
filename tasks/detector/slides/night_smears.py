"""Limit what can be a smear of blood, and divide a group of cells into smears.

A slide's cells are compared with each other, so a night of nothing but rubbish would look normal to
itself. But cells of one smear resemble each other, and stains, cameras, light and focus explain its
distance from fitted ones: fitted slides, altered as laboratories differ, show how far that reaches
and in which directions. An attack of the same length points elsewhere.

Features of all taps are joined, in the order of the taps' names, as residuals from the class means:
f - m_c = b + e with b ~ N(0, B) by altered slide and e ~ N(0, W) within it. For a group of n cells
whose median residual is r,

- *shift* = r^T (B + W / n)^-1 r / D, about 1 for an altered slide;
- *spread* = the upper quartile over its cells of (e - r)^T W^-1 (e - r) / D, about 1 as well, and
more where a third of a group is something else;
- the *reach* of a single cell is e^T (B + W)^-1 e / D.

The limits come from altered slides, each measured by a B and W without its patient.

A night without names may mix several smears, and rubbish. A group whose cells vary more than those
of one smear is halved (k-means on features whitened by W) until each part is as tight as a smear.

No alteration covers what a laboratory that nobody has seen may look like: its shift may be `ABSURD`
times the limit. A group has only one part of such a laboratory. The largest part, if it has
`MAJORITY` times the cells of all parts within the limit, is a new laboratory's smear. Any other is
a smear if it is within the limit of fitted slides, or as near to that new smear. Cells of parts
that are no smear are compared with the population.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tasks import bundles
from tasks.detector.mahalanobis import Axes
from tasks.detector.slides import cell_score, normal
from tasks.detector.slides.groups import GroupStatistics
from tasks.types import Float, Index, Integers, Mask

# Laboratories also differ in ways that the alterations do not cover. The limit of the spread is in
# medians: the farthest slides are a few with pieces of white cells, and change with the finder.
# Of 842 slides of laboratories left out, some composed as patients, none spreads farther than 5.3.
SHIFT_MARGIN, SPREAD_MARGIN, REACH_MARGIN = 1.25, 5.5, 2.5
OF_SLIDES = 0.98  # share of altered slides within the limit of the shift before the margin
OF_CELLS = 0.99  # share of their cells
LEAST_CELLS = 10  # that an altered slide needs for a median
SPREAD_QUANTILE = 0.75
ABSURD = 5.0  # times the limit of the shift: cells that are further away are not blood
# White cells that are half of a night are no laboratory, whichever half has a few cells more.
MAJORITY = 1.5
LEAST_PART = 10  # cells that a part needs to be a reference
STARTS, STEPS = 4, 30  # of k-means
MOST_OUTSIDE = 0.25  # share of a group's cells; if more are in no smear, the group is implausible


@dataclass(frozen=True)
class Floor(bundles.Bundle):
    """The limits of a smear.

    ``within`` W and ``between`` B are (D, D); ``shift``, ``spread`` and ``reach`` are the largest
    that a smear, or a cell of one, can have.
    """

    within: Float
    between: Float
    shift: float
    spread: float
    reach: float

    @cached_property
    def axes(self) -> Axes:
        """Return the axes of W and B."""
        return Axes(self.within, self.between)


@dataclass(frozen=True)
class Smear:
    """The shift and spread of a group of cells, as shares of the limits; NaN if not measured."""

    shift: float = math.nan
    spread: float = math.nan

    @property
    def plausible(self) -> bool:
        """Return whether the cells can be a smear, if of a laboratory that nobody has seen."""
        return not (self.shift > ABSURD or self.spread > 1.0)


def residuals(
    priors: Mapping[str, cell_score.Prior], taps: cell_score.Taps, predicted: Integers
) -> tuple[Float, Mask]:
    """Join usable cells' residuals (k, D) from their class means, and mark these cells (n,)."""
    usable = cell_score.usable_rows(priors, taps, predicted)
    by_tap = cell_score.residuals_of(priors, taps, predicted, usable)
    return np.concatenate(list(by_tap.values()), axis=1), usable


def fit_floor(slides: Sequence[Float], groups: Sequence[object]) -> Floor:
    """Estimate the floor from the residuals (n, D) of altered slides; those of few are left out.

    A slide is measured by those of other ``groups`` (one for each slide); ValueError without two.
    """
    enough = [place for place, cells in enumerate(slides) if len(cells) >= LEAST_CELLS]
    slides, names = [slides[place] for place in enough], [groups[place] for place in enough]
    if len(set(names)) < 2:
        raise ValueError(
            f"altered slides of {LEAST_CELLS} cells are needed from at least two patients or "
            f"slides, and come from {len(set(names))}"
        )
    middles = np.stack([np.median(cells, axis=0) for cells in slides])
    figures, reaches = [], []
    for name in dict.fromkeys(names):
        members = [place for place, each in enumerate(names) if each == name]
        others = [place for place, each in enumerate(names) if each != name]
        axes = Axes(*_covariances([slides[place] for place in others], middles[others]))
        figures += [_figures(axes, slides[place]) for place in members]
        reaches += [axes.squared(slides[place]) / middles.shape[1] for place in members]
    shifts, spreads = zip(*figures, strict=True)
    return Floor(
        *_covariances(slides, middles),
        shift=SHIFT_MARGIN * float(np.quantile(shifts, OF_SLIDES)),
        spread=SPREAD_MARGIN * float(np.median(spreads)),
        reach=REACH_MARGIN * float(np.quantile(np.concatenate(reaches), OF_CELLS)),
    )


def smear_of(floor: Floor, cells: Float) -> Smear:
    """Compare the residuals (n, D) of a group's cells with the limits."""
    if not len(cells):
        return Smear()
    shift, spread = _figures(floor.axes, cells)
    return Smear(shift / floor.shift, spread / floor.spread)


def beyond_shift(
    floor: Floor, priors: Mapping[str, cell_score.Prior], statistics: GroupStatistics
) -> Mask:
    """Mark the groups (G,) of some statistics whose mean is beyond the limit of the shift."""
    found = [normal.residual_means(statistics, t, p.means) for t, p in sorted(priors.items())]
    rows = zip(np.concatenate([means for _, means in found], axis=1), found[0][0], strict=True)
    shifts = [floor.axes.squared(row, n) / len(row) for row, n in rows]
    return np.asarray(shifts) > floor.shift


def beyond_reach(floor: Floor, cells: Float) -> Mask:
    """Mark the cells (n,) with residuals (n, D) further away than any smear's cells can be."""
    return np.asarray(floor.axes.squared(cells) / cells.shape[1] > floor.reach)


def _covariances(slides: Iterable[Float], middles: Float) -> tuple[Float, Float]:
    centred = np.concatenate([cells - cells.mean(axis=0) for cells in slides])
    degrees = float(len(centred) - len(middles))
    within = normal.shrunk_within(centred.T @ centred / degrees, degrees)
    return within, normal.shrunk_between(middles.T @ middles / len(middles), within, len(middles))


def _figures(axes: Axes, cells: Float) -> tuple[float, float]:
    middle = np.median(cells, axis=0)
    spread = np.quantile((axes.along(cells - middle) ** 2).sum(axis=1), SPREAD_QUANTILE)
    return float(axes.squared(middle, len(cells))) / len(middle), float(spread) / len(middle)


@dataclass(frozen=True)
class Group:
    """The assumptions about a kind of group.

    A part with less than ``share`` of its cells, perhaps of a rare kind, is not a smear. A part is
    halved unless at least ``alike`` of its cells are in its reference. A group ``of_one`` slide is
    not halved if it can be one smear, and its parts cannot be smears.
    """

    share: float
    alike: float
    of_one: bool = False


# One smear, a quarter of which may be debris. A patient's photographs may show two stains: of 62
# patients of four laboratories left out three cannot be read, at 0 eight cannot.
ONE_SLIDE = Group(share=0.25, alike=0.75, of_one=True)
A_NIGHT = Group(share=0.05, alike=0.9)  # possibly several smears: a seventh had another stain


@dataclass(frozen=True)
class GroupPart:
    """One part of a group; its median residual is ``middle`` (D,).

    Its ``cells`` are compared with ``reference``; None if they are not a smear. A part of too few
    cells is ``small``: it has no reference, and uses those of the others.
    """

    middle: Float
    reference: cell_score.SlideNormal | None
    small: bool
    smear: Smear
    cells: int


@dataclass(frozen=True)
class Smears:
    """The parts of a group of cells, and its measures as a whole; by default, not measured.

    ``whole`` measures the group as if it were one smear; ``outside`` is the share of its cells in
    no smear.
    """

    whole: Smear = field(default_factory=Smear)
    parts: tuple[GroupPart, ...] = ()
    outside: float = 0.0

    @property
    def implausible(self) -> bool:
        """Return whether the group is neither a smear of blood nor several."""
        return self.outside > MOST_OUTSIDE


def find_smears(
    priors: Mapping[str, cell_score.Prior],
    floor: Floor | None,
    features: cell_score.CellFeatures,
    group: Group,
) -> Smears:
    """Divide a group of cells into smears; one of too few cells has no parts.

    Without a floor any other group is one smear. Cells with a negative class are left out.
    """
    cells, usable = residuals(priors, features.taps, features.classes)
    places = np.flatnonzero(usable)
    if len(places) < normal.LEAST:  # too few for a reference: measured only by their shift
        if floor is None or len(cells) < LEAST_PART:
            return Smears()
        whole = smear_of(floor, cells)
        return Smears(whole, (), float(whole.shift > ABSURD))
    whole = Smear(0.0, 0.0) if floor is None else smear_of(floor, cells)
    least = max(LEAST_PART, group.share * len(places))
    waiting, parts = [np.arange(len(places))], list[GroupPart]()
    for part in waiting:  # it grows
        everything = len(part) == len(places)
        smear = whole if everything or floor is None else smear_of(floor, cells[part])
        small = len(part) < least and not everything
        reference, alike = None, True
        if smear.plausible and not small:
            some, fewer = bundles.take(features, places[part]), min(normal.LEAST, len(part))
            part_normal = normal.slide_normal(priors, some.taps, some.classes, fewer)
            kept = np.zeros(len(usable), bool)
            kept[places[part][part_normal.kept]] = True
            reference = replace(part_normal, kept=kept)
            alike = bool(part_normal.kept.sum() >= group.alike * len(part))
        divisible = floor is not None and not small and len(part) >= 2 * LEAST_PART
        if floor is not None and divisible and (smear.spread > 1.0 or not alike):
            waiting += _halves(floor, cells, part)
            continue
        middle = np.median(cells[part], axis=0)
        parts.append(GroupPart(middle, reference, small, smear, len(part)))
    if floor is None:
        return Smears(whole, tuple(parts))
    known = list(zip(parts, _are_smears(floor, parts), strict=True))
    outside = sum(part.cells for part, is_smear in known if not is_smear)
    of_smears = (part if is_smear else replace(part, reference=None) for part, is_smear in known)
    made = Smears(whole, tuple(of_smears), outside / len(places))
    if made.implausible and group.of_one and group.alike and whole.plausible:
        return find_smears(priors, floor, features, replace(group, alike=0.0))
    return made


def _are_smears(floor: Floor, parts: list[GroupPart]) -> list[bool]:
    """Return whether each part of a group is a smear, given the others; see the module's text."""
    smears = [part for part in parts if part.reference is not None]
    known = sum(part.cells for part in smears if part.smear.shift <= 1.0)
    largest = max(smears, key=lambda part: part.cells, default=None)
    is_new = largest and largest.smear.shift > 1.0 and largest.cells > MAJORITY * known
    new = largest if is_new else None

    def is_smear(part: GroupPart) -> bool:
        if not part.smear.plausible or part.smear.shift <= 1.0 or new is None:
            return part.smear.plausible and part.smear.shift <= 1.0
        away, n = part.middle - new.middle, 1 / (1 / part.cells + 1 / new.cells)
        return bool(floor.axes.squared(away, n) / len(away) <= floor.shift)

    return [is_smear(part) for part in parts]


def nearest_part(floor: Floor, parts: tuple[GroupPart, ...], cells: Float) -> Index:
    """Return the number (n,) of the part nearest to each cell, by residuals (n, D)."""
    white = floor.axes.along(cells)
    middles = floor.axes.along(np.stack([part.middle for part in parts]))
    # |a - b|^2 without |a|^2, which is the same for all parts.
    away = (middles**2).sum(axis=1) - 2 * white @ middles.T
    return np.asarray(away.argmin(axis=1))


def _halves(floor: Floor, cells: Float, part: Index) -> list[Index]:
    """Divide some of the cells, with residuals (n, D), into the two parts that differ most."""
    # Its import takes long, and few groups are halved.
    from scipy.cluster.vq import kmeans2

    white = floor.axes.along(cells[part])

    def halved(start: int) -> tuple[float, Index]:
        centres, side = kmeans2(white, 2, iter=STEPS, minit="++", rng=start)
        return float(((white - centres[side]) ** 2).sum()), np.asarray(side, np.intp)

    _, side = min(map(halved, range(STARTS)), key=lambda found: found[0])
    return [part[side == k] for k in (0, 1)]
