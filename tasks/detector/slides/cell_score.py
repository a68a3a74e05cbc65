"""Score a cell: its distance from the reference of its slide, and how usual that is.

The distance at each tap is squared, to the nearest class, under a reference without the cell; its
logarithm is standardised, and the score is that of the tap that deviates most. A slide's shift is
scored alike, against fitted slides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from tasks import bundles, types
from tasks.detector.calibration import Calibration, abnormality, log_distance, p_values
from tasks.detector.mahalanobis import Axes, whitened

Taps = Mapping[str, types.Numbers]
Level = Literal["slide", "laboratory", "population"]


@dataclass(frozen=True)
class CellFeatures:
    """Features (n, d) of cells by tap, diagnosed classes (n,), and rows (n,) of their batch."""

    taps: Taps
    classes: types.Index
    rows: types.Index

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Prior(bundles.Bundle):
    """The prior of a slide at one tap: from the population, or from its laboratory.

    ``means`` (C, d) are NaN for a class without cells; ``within`` is W and ``between`` B (d, d);
    the population counts as ``k`` cells in the shift. ``location`` and ``scale`` are those that log
    distances of a slide's own cells usually have.
    """

    means: types.Float
    within: types.Float
    between: types.Float
    k: float
    location: float = field(default=np.nan, metadata={bundles.KEPT_AS: ""})  # in `OwnCalibration`
    scale: float = field(default=np.nan, metadata={bundles.KEPT_AS: ""})

    @cached_property
    def axes(self) -> Axes:
        """Return the axes of W and B."""
        return Axes(self.within, self.between)


@dataclass(frozen=True)
class TapNormal(bundles.Bundle):
    """A slide's reference at one tap.

    ``means`` (C, d) are the classes' means, shifted to the slide; ``factor`` (d, d) is lower
    triangular with V = L L^T and S = V / ``nu``; ``kappa`` is n + k, infinite if no cell is in the
    reference. ``location`` and ``scale`` standardise log distances; ``t2`` is the slide's distance.
    """

    means: types.Float
    factor: types.Float
    nu: float
    kappa: float
    location: float
    scale: float
    t2: float


@dataclass(frozen=True)
class SlideNormal(bundles.Bundle):
    """A slide's reference at all taps; ``kept`` (n,) marks the cells in it."""

    taps: dict[str, TapNormal]
    level: Level
    kept: types.Mask


@dataclass(frozen=True)
class OwnCalibration(bundles.Bundle):
    """The calibrations of cells by their slide, of cells by the prior, and of slides.

    ``location`` and ``scale`` (T,) come from fitted slides, for `Prior`.
    """

    cells: Calibration
    population: Calibration
    slides: Calibration
    location: types.Float
    scale: types.Float


def usable_rows(
    references: Mapping[str, Prior] | Mapping[str, TapNormal], taps: Taps, predicted: types.Integers
) -> types.Mask:
    """Mark the cells (n,) that can be scored: finite features and a fitted class."""
    predicted = np.asarray(predicted)
    usable = predicted >= 0
    for tap, reference in references.items():
        usable &= np.isfinite(taps[tap]).all(axis=1)
        usable &= ~np.isnan(reference.means[:, 0])[np.where(predicted >= 0, predicted, 0)]
    return np.asarray(usable)


def residuals_of(
    priors: Mapping[str, Prior], taps: Taps, predicted: types.Integers, usable: types.Mask
) -> dict[str, types.Float]:
    """Subtract from the features of usable cells (n,) the means of their classes, by tap (k, d)."""
    classes = np.asarray(predicted)[usable]
    return {
        tap: np.asarray(taps[tap][usable], np.float64) - prior.means[classes]
        for tap, prior in sorted(priors.items())
    }


def squared_distances(
    normal: TapNormal, features: types.Numbers, predicted: types.Integers, weighs: types.Mask
) -> types.Float:
    """Compute squared distances (n,) to the nearest class, each under a reference without the cell.

    Removing a cell is exact: with kappa = n + k and u = (r - d) kappa / (kappa - 1), V_-i = V -
    (kappa - 1) / kappa u u^T and d_-i = d - u / kappa (Murphy 2007, read backwards). Residuals of
    features (n, d) are from the ``predicted`` classes (n,); cells that ``weighs`` (n,) are in the
    reference.
    """
    have = ~np.isnan(normal.means[:, 0])
    centre = normal.means[have].mean(axis=0)
    white = whitened(normal.factor, np.asarray(features, np.float64) - centre)
    targets = whitened(normal.factor, normal.means - centre)
    share = 1 - 1 / normal.kappa
    # A cell that is not in the reference moves nothing.
    offsets = np.where(weighs[:, None], white - targets[np.asarray(predicted)], 0.0) / share
    length = np.einsum("ij,ij->i", offsets, offsets)
    room = np.maximum(1 - share * length, np.finfo(np.float64).eps)
    away = white - targets[have][:, None]
    along = np.einsum("cij,ij->ci", away, offsets)
    # Of u and the difference from each mean, which removing the cell moves by u / kappa.
    product = along + length / normal.kappa
    plain = np.einsum("cij,cij->ci", away, away) + (along + product) / normal.kappa
    squared = (normal.nu - weighs) * (plain + share * product**2 / room)
    return np.asarray(squared.min(axis=0))


def standardised_distances(
    normal: SlideNormal, taps: Taps, predicted: types.Integers, weighs: types.Mask
) -> types.Float:
    """Standardise log `squared_distances` (n, T) of a slide's cells; NaN if a cell has no score."""
    usable = usable_rows(normal.taps, taps, predicted)
    standardised = np.full((len(usable), len(normal.taps)), np.nan)
    classes = np.asarray(predicted)[usable]
    for column, (tap, known) in enumerate(sorted(normal.taps.items())):
        squared = squared_distances(known, taps[tap][usable], classes, weighs[usable])
        standardised[usable, column] = (log_distance(squared) - known.location) / known.scale
    return standardised


def cell_scores(
    calibration: OwnCalibration, normal: SlideNormal, deviations: types.Float
) -> tuple[types.Float, types.Float]:
    """Compute abnormality and p-value (n,) of standardised log distances (n, T)."""
    level = calibration.population if normal.level == "population" else calibration.cells
    scores, p = (np.full(len(deviations), np.nan) for _ in "sp")
    known = ~np.isnan(deviations).any(axis=1)
    scores[known] = abnormality(level, deviations[known])
    p[known] = p_values(level, scores[known])
    return scores, p


def shift_scores(calibration: OwnCalibration, t2: types.Float) -> tuple[float, float, bool]:
    """Score a slide's shift; return score, p-value, and whether it exceeds every fitted slide's.

    ``t2`` (T,) is the slide's distance at each tap, NaN without a usable cell, as are the results.
    """
    if np.isnan(t2).any():
        return float("nan"), float("nan"), False
    score = abnormality(calibration.slides, log_distance(t2[np.newaxis]))
    p = p_values(calibration.slides, score)
    return float(score[0]), float(p[0]), bool(score[0] > calibration.slides.scores[-1])
