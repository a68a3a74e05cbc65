"""Diagnose by two witnesses: the network, and a discriminant of the class statistics.

The last layers of a network learn the look of the training laboratory, above all its colours.
Earlier stages hardly change in training and travel better, and their statistics by class are kept
already. Fisher's discriminant (1936) of each tap, relative to the slide's own healthy cells, is a
second opinion that changes with every fitted batch, without training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from tasks import bundles
from tasks.detector.probabilities import UNCHANGED, Adaptation, fit_adaptation
from tasks.detector.slides.cell_score import Taps
from tasks.detector.slides.groups import GroupStatistics
from tasks.types import Array, Float, Mask

RIDGE = 0.3  # of the mean variance of a feature, added to each
SHRINKAGE = 5.0  # cells as which "no shift" counts in a slide's shift
Estimate = TypeVar("Estimate", float, Float)
LEAST_CELLS, LEAST_OF_A_KIND = 100, 20  # unseen cells needed for a calibration
# Log-odds of a typical parasite by either witness. Beyond it lies dirt more often than a parasite:
# past .3% of the healthy cells of the worst laboratory left out lie .51, .72 and .44 of the
# parasites of three; .54, .66 and .40 if only the statistics are held to it, .47, .59, .34 if none.
SUREST = 6.0


@dataclass(frozen=True)
class Discriminant(bundles.Bundle):
    """Score cells by the class statistics: the sum over taps of w f, plus an ``offset``.

    ``weights`` (d,) are by tap; each tap's score has a deviation of 1 over fitted cells, with equal
    weights for the classes. ``healthy`` is the mean score of fitted cells without a parasite.
    """

    weights: Mapping[str, Float]
    offset: float
    healthy: float

    def scores(self, taps: Taps) -> Float:
        """Score cells (n,) by their features (n, d); a higher score is more like a parasite's."""
        products = [np.asarray(taps[tap], np.float64) @ w for tap, w in self.weights.items()]
        return np.asarray(np.sum(products, axis=0) + self.offset)

    def lean(self, scores: Float, healthy: Mask, parent: float = 0.0) -> float:
        """Estimate how much higher a slide's healthy cells score than fitted ones.

        It is the difference of the medians, drawn towards ``parent``, the night's lean or 0, which
        counts as `SHRINKAGE` cells. The network finds no parasite in the ``healthy`` cells (n,).
        """
        known = scores[healthy & np.isfinite(scores)]
        if not len(known):
            return parent
        return _drawn(float(np.median(known)) - self.healthy, len(known), parent)

    def leans(self, scores: Float, healthy: Mask, groups: Array) -> dict[Any, float]:
        """Estimate the `lean` of each of the cells' groups (n,)."""
        leans = {}
        for group in np.unique(groups).tolist():
            members = groups == group
            leans[group] = self.lean(scores[members], healthy[members])
        return leans


@dataclass(frozen=True)
class Classes(bundles.Bundle):
    """The class means and scatter of a discriminant, by tap.

    ``means`` (2, d) of the classes are relative to each slide's healthy cells, the class at place
    ``positive`` has parasites, and ``scatter`` (d, d) is the covariance of cells within their class
    and slide. ``healthy`` (d,) is the mean that the healthy cells of a slide are compared with.
    """

    positive: int
    means: Mapping[str, Float]
    scatter: Mapping[str, Float]
    healthy: Mapping[str, Float]

    @classmethod
    def of(cls, statistics: GroupStatistics, positive: int) -> "Classes":
        """Compute class means relative to each slide's own healthy mean, drawn to the common one.

        The statistics are by slide or patient, of fitted cells of two classes.
        ValueError if a class has no cells.
        """
        n = statistics.n
        if statistics.classes != 2 or not n.sum(axis=0).all():
            raise ValueError("a discriminant needs cells of two classes")
        negative = 1 - positive
        degrees = float((n - 1).clip(min=0).sum())
        known = n[:, negative]
        share = known / (known + SHRINKAGE)
        centres, scatter = {}, {}
        for tap in statistics.taps:
            means = statistics.means[tap]
            common = known @ means[:, negative] / known.sum()
            shifts = share[:, None] * np.where(known[:, None] > 0, means[:, negative] - common, 0.0)
            sums = np.einsum("gc,gcd->cd", n, means - shifts[:, None])
            centres[tap] = sums / n.sum(axis=0)[:, None]
            scatter[tap] = statistics.scatter[tap].sum(axis=0) / max(degrees, 1.0)
        return cls(positive, centres, scatter, {tap: m[negative] for tap, m in centres.items()})

    def moved(self, means: Mapping[str, Float], share: float) -> "Classes":
        """Move class means by a share of the way to others (2, d), as merging their cells would."""
        moved = {tap: (1 - share) * m + share * means[tap] for tap, m in self.means.items()}
        return replace(self, means=moved)

    def discriminant(self) -> Discriminant:
        """Compute w = S^-1 (m_P - m_U) at each tap, where S is the scatter with a ridge.

        ValueError if no cell varies, or the classes have the same mean.
        """
        weights, offset, healthy = {}, 0.0, 0.0
        for tap, means in self.means.items():
            scatter, d = self.scatter[tap], len(self.scatter[tap])
            variance = float(np.trace(scatter)) / d
            if not variance > 0:
                raise ValueError(f"tap {tap}: nothing varies within the slides")
            ridged = scatter + RIDGE * variance * np.eye(d)
            between = means[self.positive] - means[1 - self.positive]
            w = np.linalg.solve(ridged, between)
            gap = float(w @ between)
            deviation = math.sqrt(float(w @ scatter @ w) + gap**2 / 4)
            if not deviation > 0:
                raise ValueError(f"tap {tap}: the classes have the same mean")
            weights[tap] = w / deviation
            offset -= float(weights[tap] @ means.sum(axis=0)) / 2
            healthy -= gap / deviation / 2
            healthy -= float(weights[tap] @ (means[1 - self.positive] - self.healthy[tap]))
        return Discriminant(weights, offset, healthy)


def discriminant(statistics: GroupStatistics, positive: int) -> Discriminant:
    """Compute the discriminant of fitted cells of two classes; see `Classes` for errors."""
    return Classes.of(statistics, positive).discriminant()


def shifts(
    taps: Taps,
    healthy: Mask,
    normal: Mapping[str, Float],
    parent: Mapping[str, Float] | None = None,
) -> dict[str, Float]:
    """Estimate by how much a slide's healthy cells (n,) differ from fitted ones, by tap (d,).

    It is `Discriminant.lean` of each feature (n, d), for discriminants that are not known yet.
    ``normal`` (d,) are the expected features, ``parent`` (d,) the shift that is expected before the
    slide is seen, by default none.
    """
    count, by_tap = int(healthy.sum()), {}
    for tap, expected in normal.items():
        before = np.zeros(len(expected)) if parent is None else parent[tap]
        values = np.asarray(taps[tap][healthy], np.float64)
        shift = np.median(values, axis=0) - expected if count else before
        by_tap[tap] = _drawn(shift, count, before)
    return by_tap


def _drawn(estimate: Estimate, cells: int, parent: Estimate) -> Estimate:
    """Draw an estimate by some cells towards its parent, which counts as `SHRINKAGE` cells."""
    return (cells * estimate + SHRINKAGE * parent) / (cells + SHRINKAGE)


@dataclass(frozen=True)
class LogOdds:
    """The log-odds (n,) of "parasitized" by each witness, and by ``both``."""

    network: Float
    statistics: Float
    both: Float

    @property
    def disagree(self) -> Mask:
        """Mark the cells (n,) that only one witness calls parasitized."""
        known = np.isfinite(self.network) & np.isfinite(self.statistics)
        return np.asarray(known & ((self.network > 0) != (self.statistics > 0)))


@dataclass(frozen=True)
class Scales(bundles.Bundle):
    """The calibration of two witnesses.

    ``network`` and ``statistics`` turn the network's log-odds and the discriminant's score into
    log-odds for equal numbers of both kinds of cells; ``both`` does so for their sum, in which each
    is at most `SUREST`.
    """

    network: Adaptation
    statistics: Adaptation
    both: Adaptation

    def combine(self, network: Float, scores: Float) -> LogOdds:
        """Compute log-odds (n,) from the network's and the discriminant's scores (n,) less lean."""
        first, second = self.network.of(network), self.statistics.of(scores)
        return LogOdds(first, second, self.both.of(np.minimum([first, second], SUREST).sum(axis=0)))


@dataclass(frozen=True)
class Witnesses(bundles.Bundle):
    """The second witness of the class at place ``positive``, and the calibration of both."""

    positive: int
    discriminant: Discriminant
    scales: Scales


def calibrated(network: Float, scores: Float, parasitized: Mask) -> Scales | None:
    """Calibrate two witnesses on cells (n,) of patients that neither has seen; None if too few."""
    kinds = np.bincount(parasitized.astype(np.intp), minlength=2)
    if kinds.sum() < LEAST_CELLS or kinds.min() < LEAST_OF_A_KIND:
        return None
    first = fit_adaptation(network, parasitized)
    second = fit_adaptation(scores, parasitized)
    apart = Scales(first, second, UNCHANGED)
    both = fit_adaptation(apart.combine(network, scores).both, parasitized)
    return replace(apart, both=both)
