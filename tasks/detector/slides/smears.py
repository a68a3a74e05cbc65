"""Find the smears in a group of cells: what its cells may be compared with.

A slide is one smear, and a night without names may be of several: two stains, two laboratories,
cells and rubbish. A group whose cells vary more than those of one smear is halved (k-means, where
the covariance within smears is the identity) until each part is as tight as a smear is. A part
becomes a reference where it also lies as near as laboratories do; other parts are left to the
population.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.detector.slides.distance import Prior, SlideNormal, Taps, whitened
from tasks.detector.slides.floor import Floor, Smear, residuals, smear_of
from tasks.detector.slides.normal import Choices, slide_normal
from tasks.types import Float

LEAST_PART = 10  # cells that a part of a group needs to be a reference
MOST_OUTSIDE = 0.25  # of a group's cells: where more are in no smear, the group is none
UNKNOWN = Smear(float("nan"), float("nan"))  # where nothing can be measured


@dataclass(frozen=True)
class Group:
    """Say what is known of a group before it is seen.

    A part that holds less than ``share`` of its cells is no smear of its own: it may be a rare kind
    of cell. Of a smear's cells ``alike`` are in its reference, or it is halved.
    """

    share: float
    alike: float


ONE_SLIDE = Group(share=0.25, alike=0.0)  # it should be one smear, a third of which may be debris
A_NIGHT = Group(share=0.05, alike=0.85)  # it may be of several


@dataclass(frozen=True)
class Part:
    """Hold one part of a group, whose median residual is ``middle`` (D,).

    ``reference`` is what its cells are compared with; None where they are no smear. A part of too
    few cells is ``small``: it has no reference, and leans on those of the others.
    """

    middle: Float
    reference: SlideNormal | None
    small: bool = False


@dataclass(frozen=True)
class Smears:
    """Hold the parts of a group of cells, and what it is as a whole.

    ``whole`` measures the group as if it were one smear; ``outside`` is the share of its cells that
    are in no smear.
    """

    whole: Smear
    parts: tuple[Part, ...]
    outside: float

    @property
    def references(self) -> list[SlideNormal]:
        """List the references of the parts that are smears."""
        return [part.reference for part in self.parts if part.reference is not None]

    @property
    def implausible(self) -> bool:
        """Return whether the group is no smear of blood, nor several."""
        return self.outside > MOST_OUTSIDE

    @classmethod
    def unknown(cls) -> "Smears":
        """Make what is known of a group that was not looked at."""
        return cls(UNKNOWN, (), 0.0)


def find_smears(
    priors: Mapping[str, Prior],
    floor: Floor | None,
    taps: Taps,
    predicted: NDArray[np.integer],
    group: Group,
) -> Smears:
    """Find the smears in a group of cells.

    A group of too few cells has no parts. Without a floor every other group is one smear.

    Args:
        priors: by tap.
        floor: what a smear can be.
        taps: features (n, d) of every tap.
        predicted: (n,) classes as diagnosed; a cell with a negative one is left out.
        group: what is known of the group.
    """
    choices = Choices()
    cells, usable = residuals(priors, taps, predicted)
    places, n = np.flatnonzero(usable), len(usable)
    if len(places) < choices.least:
        return _too_few(floor, cells)
    whole = Smear(0.0, 0.0) if floor is None else smear_of(floor, cells)
    least = max(LEAST_PART, group.share * len(places))
    waiting, parts, outside = [np.arange(len(places))], list[Part](), 0
    for part in waiting:  # it grows
        everything = len(part) == len(places)
        smear = whole if everything or floor is None else smear_of(floor, cells[part])
        small = len(part) < least and not everything
        reference, alike = None, True
        if smear.plausible and not small:
            rows = places[part]
            own = replace(choices, least=min(choices.least, len(part)))
            normal = slide_normal(priors, _at(taps, rows), predicted[rows], own)
            reference = _placed(normal, rows, n)
            alike = bool(normal.kept.sum() >= group.alike * len(part))
        divisible = floor is not None and not small and len(part) >= 2 * LEAST_PART
        if floor is not None and divisible and (smear.spread > 1.0 or not alike):
            waiting += _halves(floor, cells, part)
            continue
        outside += 0 if smear.plausible else len(part)
        parts.append(Part(np.median(cells[part], axis=0), reference, small))
    return Smears(whole, tuple(parts), outside / len(places))


def _too_few(floor: Floor | None, cells: Float) -> Smears:
    """Measure a group of too few cells to be a reference, by its shift alone."""
    if floor is None or len(cells) < LEAST_PART:
        return Smears.unknown()
    smear = smear_of(floor, cells)
    return Smears(smear, (), float(smear.shift > 1.0))


def nearest_part(floor: Floor, parts: tuple[Part, ...], cells: Float) -> NDArray[np.intp]:
    """Number the part (n,) that each cell, of residuals (n, D), is nearest to within smears."""
    own = whitened(floor.whitening, cells)
    middles = whitened(floor.whitening, np.stack([part.middle for part in parts]))
    # |a - b|^2 but for |a|^2, which is the same for all parts.
    away = (middles**2).sum(axis=1) - 2 * own @ middles.T
    return np.asarray(away.argmin(axis=1))


def _halves(floor: Floor, cells: Float, part: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Divide some of the cells, of residuals (n, D), into the two parts that differ most."""
    # A coordinator that screens imports this module and needs no scikit-learn.
    from sklearn.cluster import KMeans

    side = KMeans(2, n_init=4, random_state=0).fit_predict(whitened(floor.whitening, cells[part]))
    return [part[side == k] for k in (0, 1)]


def _placed(normal: SlideNormal, rows: NDArray[np.intp], n: int) -> SlideNormal:
    """Mark the cells of a part's reference among all n of the group."""
    kept = np.zeros(n, bool)
    kept[rows[normal.kept]] = True
    return replace(normal, kept=kept)


def _at(taps: Taps, rows: NDArray[np.intp]) -> dict[str, NDArray[np.floating]]:
    return {tap: values[rows] for tap, values in taps.items()}
