"""Choose the reference of each cell, score the cell by it, and measure the lean of each part.

A group has a reference for each of its parts that is a smear. Cells of other parts, and cells
beyond the reach of every smear, are compared with fitted cells. So is a group of rubbish, which
would look normal to itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks import bundles
from tasks.detector.slides import cell_score
from tasks.detector.slides import night_smears as limits
from tasks.detector.slides.cell_score import CellFeatures, SlideNormal
from tasks.detector.slides.normal import population_normal
from tasks.detector.slides.own_normal import OwnNormal
from tasks.detector.witnesses import Witnesses
from tasks.types import Float, Index, Mask

POPULATION = "population"  # the reference of cells without a nearer one
NO_ROWS = np.zeros(0, np.intp)
NONE = (0.0,)  # the leans of cells that are compared with fitted ones


@dataclass(frozen=True)
class Reference:
    """A normal to compare cells with, the rows (k,) it is made of, and its name."""

    normal: SlideNormal
    rows: Index
    level: str


@dataclass(frozen=True)
class References:
    """The references of a group's cells: ``own`` has one for each part of its ``smears``.

    It is None if the part's cells are compared with fitted ones. Without parts all cells are.
    """

    smears: limits.Smears
    own: tuple[Reference | None, ...]

    @property
    def known(self) -> list[Reference]:
        """List the references of parts that have one."""
        return [each for each in self.own if each is not None]

    @property
    def rows(self) -> Index:
        """Join the rows (k,) of the references."""
        return np.concatenate([NO_ROWS, *(each.rows for each in self.known)])


@dataclass(frozen=True)
class CellScores:
    """Abnormality and p-value (n,) of cells; NaN if a cell cannot be scored.

    ``compared_with`` (n,) names the references; ``unlike`` (n,) marks cells that are further from
    fitted cells than any smear's cells can be; ``part`` (n,) is the nearest part of the group.
    """

    abnormality: Float
    p_value: Float
    compared_with: NDArray[np.object_]
    unlike: Mask
    part: Index


def fallback_reference(normals: OwnNormal, own: SlideNormal | None = None) -> Reference:
    """Make the reference of cells without a nearer one: the detector's own, or all fitted cells."""
    if own is not None:
        return Reference(own, NO_ROWS, own.level)
    return Reference(population_normal(normals.priors), NO_ROWS, POPULATION)


def references_of(
    normals: OwnNormal, cells: CellFeatures, level: str, group: limits.Group, of_few: bool = False
) -> References:
    """Choose the references of a group's cells, and name them after their ``level``.

    A part of a night that is no further away than fitted slides has no reference of its own:
    fitted cells are a better one than a mixture of its patients. Slides ``of_few`` cells choose
    themselves (`most_ordinary`), and so have both.
    """
    smears = limits.find_smears(normals.priors, normals.floor, cells, group)
    references: list[Reference | None] = []
    for part in smears.parts:
        normal = part.reference
        if normal is not None and group is limits.A_NIGHT and normals.floor and not of_few:
            t2 = np.asarray([normal.taps[tap].t2 for tap in sorted(normal.taps)])
            normal = normal if cell_score.shift_scores(normals.calibration, t2)[2] else None
        references.append(
            None if normal is None else Reference(normal, cells.rows[normal.kept], level)
        )
    return References(smears, tuple(references))


def alone(reference: Reference | None) -> References:
    """Make the references of cells that share a single one; None: fitted cells."""
    return References(limits.Smears(), () if reference is None else (reference,))


def most_ordinary(normals: OwnNormal, candidates: Sequence[Reference], cells: CellFeatures) -> int:
    """Choose the place of the first reference whose median cell is most ordinary."""
    medians = []
    for reference in candidates:
        _, p = _scores(normals, reference, cells)
        medians.append(float(np.median(p[~np.isnan(p)])) if np.isfinite(p).any() else 1.0)
    return int(np.argmax(medians))


def score_cells(
    normals: OwnNormal, references: References, fitted: Reference, cells: CellFeatures
) -> CellScores:
    """Score cells by the references of their group; ``fitted`` is that of cells without another."""
    n = len(cells)
    unknown, levels = np.full(n, np.nan), np.full(n, fitted.level, object)
    unlike, parts = np.zeros(n, bool), np.zeros(n, np.intp)
    scores = CellScores(unknown, unknown.copy(), levels, unlike, parts)
    residual, usable = limits.residuals(normals.priors, cells.taps, cells.classes)
    places = np.flatnonzero(usable)
    if normals.floor is not None:
        scores.unlike[places] = limits.beyond_reach(normals.floor, residual)
    compared = []
    chosen_from = _candidates(normals.floor, references, fitted, residual)
    for number, (candidates, nearest) in enumerate(chosen_from):
        scores.part[places[nearest]] = number
        compared.append((candidates, places[nearest]))
    for candidates, here in [*compared, ([fitted], np.flatnonzero(scores.unlike))]:
        some = bundles.take(cells, here)
        for place, candidate in enumerate(candidates if len(here) else ()):
            abnormality, p = _scores(normals, candidate, some)
            # The most ordinary of several scores counts.
            better = p > scores.p_value[here] if place else np.ones(len(here), bool)
            chosen = here[better]
            scores.abnormality[chosen], scores.p_value[chosen] = abnormality[better], p[better]
            scores.compared_with[chosen] = candidate.level
    return scores


def _candidates(
    floor: limits.Floor | None, references: References, fitted: Reference, cells: Float
) -> list[tuple[list[Reference], Index]]:
    """List references with the cells (k,) to compare with them; the most ordinary score counts."""
    everything = np.arange(len(cells))
    if len(references.own) < 2 or floor is None:
        return [([references.own[0] or fitted if references.own else fitted], everything)]
    parts = references.smears.parts
    nearest = limits.nearest_part(floor, parts, cells)
    return [
        (
            [fitted, *references.known] if part.small else [reference or fitted],
            np.flatnonzero(nearest == number),
        )
        for number, (part, reference) in enumerate(zip(parts, references.own, strict=True))
    ]


def _scores(normals: OwnNormal, reference: Reference, cells: CellFeatures) -> tuple[Float, Float]:
    weighs = np.isin(cells.rows, reference.rows)
    deviations = cell_score.standardised_distances(
        reference.normal, cells.taps, cells.classes, weighs
    )
    return cell_score.cell_scores(normals.calibration, reference.normal, deviations)


def group_leans(
    witnesses: Witnesses,
    normals: OwnNormal,
    references: References,
    cells: CellFeatures,
    parent: float = 0.0,
) -> tuple[float, ...]:
    """Compute the lean of each part of a group, by `Discriminant.lean`; one without parts.

    Only cells in the part's reference count, if it has one. A part that is not a smear has the lean
    of its ``parent``, which is expected before the group is seen.
    """
    scores = witnesses.discriminant.scores(cells.taps)
    healthy = cells.classes == 1 - witnesses.positive
    parts = references.smears.parts
    if not parts:
        return (witnesses.discriminant.lean(scores, healthy, parent),)
    number = np.zeros(len(cells), np.intp)
    if normals.floor is not None and len(parts) > 1:
        residual, usable = limits.residuals(normals.priors, cells.taps, cells.classes)
        number[usable] = limits.nearest_part(normals.floor, parts, residual)
        number[~usable] = -1
    leans = []
    for place, (part, reference) in enumerate(zip(parts, references.own, strict=True)):
        if part.reference is None:
            leans.append(parent)
            continue
        members = healthy & (number == place)
        if reference is not None:
            members &= np.isin(cells.rows, reference.rows)
        leans.append(witnesses.discriminant.lean(scores, members, parent))
    return tuple(leans)
