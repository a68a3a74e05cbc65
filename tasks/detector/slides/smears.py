"""Divide a group of cells into smears, with which its cells may be compared.

A slide is one smear; a night without names may mix several: two stains, two laboratories, cells and
rubbish. A group whose cells vary more than those of one smear is halved (k-means on features
whitened by the covariance within smears) until each part is as tight as a smear. A part becomes a
reference if it is also no further away than laboratories are; cells of other parts are compared
with the population.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.detector.slides.distance import Prior, SlideNormal, Taps, whitened
from tasks.detector.slides.floor import Floor, Smear, residuals, smear_of
from tasks.detector.slides.normal import Choices, slide_normal
from tasks.types import Float

LEAST_PART = 10  # cells that a part needs to be a reference
MOST_OUTSIDE = 0.25  # share of a group's cells; if more are in no smear, the group is implausible
UNKNOWN = Smear(float("nan"), float("nan"))  # if nothing can be measured


@dataclass(frozen=True)
class Group:
    """The assumptions about a kind of group.

    A part with less than ``share`` of its cells is not a smear: it may be a rare kind of cell. A
    part is halved unless at least ``alike`` of its cells are in its reference.
    """

    share: float
    alike: float


ONE_SLIDE = Group(share=0.25, alike=0.0)  # one smear, a third of which may be debris
A_NIGHT = Group(share=0.05, alike=0.85)  # possibly several smears


@dataclass(frozen=True)
class GroupPart:
    """One part of a group; its median residual is ``middle`` (D,).

    Its cells are compared with ``reference``; None if they are not a smear. A part of too few
    cells is ``small``: it has no reference, and uses those of the others.
    """

    middle: Float
    reference: SlideNormal | None
    small: bool = False


@dataclass(frozen=True)
class Smears:
    """The parts of a group of cells, and its measures as a whole.

    ``whole`` measures the group as if it were one smear; ``outside`` is the share of its cells in
    no smear.
    """

    whole: Smear
    parts: tuple[GroupPart, ...]
    outside: float

    @property
    def references(self) -> list[SlideNormal]:
        """List the references of the parts that are smears."""
        return [part.reference for part in self.parts if part.reference is not None]

    @property
    def implausible(self) -> bool:
        """Return whether the group is neither a smear of blood nor several."""
        return self.outside > MOST_OUTSIDE

    @classmethod
    def unknown(cls) -> "Smears":
        """Make the result for a group that was not measured."""
        return cls(UNKNOWN, (), 0.0)


def find_smears(
    priors: Mapping[str, Prior],
    floor: Floor | None,
    taps: Taps,
    predicted: NDArray[np.integer],
    group: Group,
) -> Smears:
    """Divide a group of cells into smears.

    A group of too few cells has no parts. Without a floor any other group is one smear.

    Args:
        priors: by tap.
        floor: the limits of a smear.
        taps: features (n, d) of every tap.
        predicted: (n,) classes as diagnosed; a cell with a negative one is left out.
        group: the assumptions about it.
    """
    choices = Choices()
    cells, usable = residuals(priors, taps, predicted)
    places, n = np.flatnonzero(usable), len(usable)
    if len(places) < choices.least:
        return _too_few(floor, cells)
    whole = Smear(0.0, 0.0) if floor is None else smear_of(floor, cells)
    least = max(LEAST_PART, group.share * len(places))
    waiting, parts, outside = [np.arange(len(places))], list[GroupPart](), 0
    for part in waiting:  # it grows
        everything = len(part) == len(places)
        smear = whole if everything or floor is None else smear_of(floor, cells[part])
        small = len(part) < least and not everything
        reference, alike = None, True
        if smear.plausible and not small:
            rows = places[part]
            fewer = replace(choices, least=min(choices.least, len(part)))
            some = {tap: values[rows] for tap, values in taps.items()}
            normal = slide_normal(priors, some, predicted[rows], fewer)
            kept = np.zeros(n, bool)
            kept[rows[normal.kept]] = True
            reference = replace(normal, kept=kept)
            alike = bool(normal.kept.sum() >= group.alike * len(part))
        divisible = floor is not None and not small and len(part) >= 2 * LEAST_PART
        if floor is not None and divisible and (smear.spread > 1.0 or not alike):
            waiting += _halves(floor, cells, part)
            continue
        outside += 0 if smear.plausible else len(part)
        parts.append(GroupPart(np.median(cells[part], axis=0), reference, small))
    return Smears(whole, tuple(parts), outside / len(places))


def _too_few(floor: Floor | None, cells: Float) -> Smears:
    """Measure a group too small for a reference, only by its shift."""
    if floor is None or len(cells) < LEAST_PART:
        return Smears.unknown()
    smear = smear_of(floor, cells)
    return Smears(smear, (), float(smear.shift > 1.0))


def nearest_part(floor: Floor, parts: tuple[GroupPart, ...], cells: Float) -> NDArray[np.intp]:
    """Return the number (n,) of the part nearest to each cell, by residuals (n, D)."""
    white = whitened(floor.whitening, cells)
    middles = whitened(floor.whitening, np.stack([part.middle for part in parts]))
    # |a - b|^2 without |a|^2, which is the same for all parts.
    away = (middles**2).sum(axis=1) - 2 * white @ middles.T
    return np.asarray(away.argmin(axis=1))


def _halves(floor: Floor, cells: Float, part: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Divide some of the cells, with residuals (n, D), into the two parts that differ most."""
    # A coordinator that screens imports this module and needs no scikit-learn.
    from sklearn.cluster import KMeans

    side = KMeans(2, n_init=4, random_state=0).fit_predict(whitened(floor.whitening, cells[part]))
    return [part[side == k] for k in (0, 1)]
