"""Diagnose by two witnesses: the network, and a discriminant of the class statistics.

The last layers of a network learn what the training laboratory looks like, its colours first. The
stages before them are hardly touched by training and travel better, and their statistics by class
are kept already. Fisher's discriminant (1936) of each tap, relative to the slide's own healthy
cells, is a second opinion that changes with every fitted batch, without training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.detector.probabilities import Adaptation, fit_adaptation
from tasks.detector.slides.distance import Taps
from tasks.detector.slides.groups import GroupStatistics
from tasks.types import Arrays, Float, below, nested

RIDGE = 0.3  # of the mean variance of a feature, added to each
SHRINKAGE = 5.0  # cells: what no shift at all weighs in a slide's shift
LEAST_CELLS, LEAST_OF_A_KIND = 100, 20  # unseen cells below which nothing is calibrated


@dataclass(frozen=True)
class Discriminant:
    """Score cells by the class statistics: the sum over taps of w f, plus an ``offset``.

    ``weights`` (d,) are by tap; each tap's score has a deviation of 1 over fitted cells, both
    classes weighing the same. ``healthy`` is the mean score of fitted cells without a parasite.
    """

    weights: Mapping[str, Float]
    offset: float
    healthy: float

    def scores(self, taps: Taps) -> Float:
        """Score cells (n,) by their features (n, d): the higher, the more like a parasite's."""
        products = [np.asarray(taps[tap], np.float64) @ w for tap, w in self.weights.items()]
        return np.asarray(np.sum(products, axis=0) + self.offset)

    def lean(self, scores: Float, healthy: NDArray[np.bool_], parent: float = 0.0) -> float:
        """Estimate by how much a slide's healthy cells score higher than fitted ones.

        It is the difference of the median, drawn to the ``parent`` as if that were `SHRINKAGE`
        cells.

        Args:
            scores: (n,) of the slide's cells.
            healthy: (n,) which of them the network diagnoses as having no parasite.
            parent: what is expected before the slide is seen: of its night, or none.
        """
        known = scores[healthy & np.isfinite(scores)]
        if not len(known):
            return parent
        own = float(np.median(known)) - self.healthy
        return (len(known) * own + SHRINKAGE * parent) / (len(known) + SHRINKAGE)

    def leans(
        self, scores: Float, healthy: NDArray[np.bool_], groups: NDArray[Any]
    ) -> dict[Any, float]:
        """Estimate the `lean` of each of the groups (n,) that cells are of."""
        found = {}
        for group in np.unique(groups).tolist():
            mine = groups == group
            found[group] = self.lean(scores[mine], healthy[mine])
        return found


def discriminant(statistics: GroupStatistics, positive: int) -> Discriminant:
    """Compute the discriminant of two classes from statistics by slide or patient.

    At each tap w = S^-1 (m_P - m_U): S is the scatter within classes and slides, with a ridge;
    class means are relative to each slide's own mean of healthy cells, drawn to the common one.

    Args:
        statistics: of fitted cells of two classes.
        positive: the place of the class that has parasites.

    Raises:
        ValueError: a class has no cells, or no cell varies.
    """
    n = statistics.n
    if statistics.classes != 2 or not n.sum(axis=0).all():
        raise ValueError("a discriminant needs cells of two classes")
    negative = 1 - positive
    degrees = float((n - 1).clip(min=0).sum())
    known = n[:, negative]
    share = known / (known + SHRINKAGE)
    weights, offset, healthy = {}, 0.0, 0.0
    for tap in statistics.taps:
        means = statistics.means[tap]
        common = known @ means[:, negative] / known.sum()
        shifts = share[:, None] * np.where(known[:, None] > 0, means[:, negative] - common, 0.0)
        class_means = np.einsum("gc,gcd->cd", n, means - shifts[:, None]) / n.sum(axis=0)[:, None]
        scatter = statistics.scatter[tap].sum(axis=0) / max(degrees, 1.0)
        d = len(scatter)
        variance = float(np.trace(scatter)) / d
        if not variance > 0:
            raise ValueError(f"tap {tap}: nothing varies within the slides")
        ridged = scatter + RIDGE * variance * np.eye(d)
        between = class_means[positive] - class_means[negative]
        w = np.linalg.solve(ridged, between)
        gap = float(w @ between)
        deviation = math.sqrt(float(w @ scatter @ w) + gap**2 / 4)
        if not deviation > 0:
            raise ValueError(f"tap {tap}: the classes have the same mean")
        weights[tap] = w / deviation
        offset -= float(weights[tap] @ class_means.sum(axis=0)) / 2
        healthy -= gap / deviation / 2
    return Discriminant(weights, offset, healthy)


@dataclass(frozen=True)
class Statement:
    """Hold the log-odds (n,) of "parasitized" by each witness, and by ``both``."""

    network: Float
    statistics: Float
    both: Float

    @property
    def disagree(self) -> NDArray[np.bool_]:
        """Mark the cells (n,) that one witness takes for parasitized and the other does not."""
        known = np.isfinite(self.network) & np.isfinite(self.statistics)
        return np.asarray(known & ((self.network > 0) != (self.statistics > 0)))


@dataclass(frozen=True)
class Scales:
    """Hold how two witnesses are calibrated.

    ``network`` and ``statistics`` turn the network's log-odds and the discriminant's score into
    log-odds as they are among as many cells of either kind; ``both`` does so with their sum.
    """

    network: Adaptation
    statistics: Adaptation
    both: Adaptation

    def testify(self, network: Float, scores: Float) -> Statement:
        """Compute all log-odds (n,).

        Args:
            network: (n,) log-odds of the network.
            scores: (n,) of the discriminant, less the `Discriminant.lean` of each cell's slide.
        """
        first, second = self.network.of(network), self.statistics.of(scores)
        return Statement(first, second, self.both.of(first + second))


@dataclass(frozen=True)
class Witnesses:
    """Hold the second witness of the class at place ``positive``, and how both are calibrated."""

    positive: int
    discriminant: Discriminant
    scales: Scales

    def to_arrays(self) -> Arrays:
        """Name the arrays, for keeping."""
        numbers = [float(self.positive), self.discriminant.offset, self.discriminant.healthy]
        scales = [(each.scale, each.bias) for each in vars(self.scales).values()]
        return {
            **nested("weights", self.discriminant.weights),
            "numbers": np.asarray(numbers),
            "scales": np.asarray(scales),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Witnesses":
        """Read them back from `to_arrays`."""
        positive, offset, healthy = arrays["numbers"].tolist()
        scales = Scales(*(Adaptation(*pair) for pair in arrays["scales"].tolist()))
        known = Discriminant(below("weights", arrays), offset, healthy)
        return cls(int(positive), known, scales)


def calibrated(network: Float, scores: Float, parasitized: NDArray[np.bool_]) -> Scales | None:
    """Calibrate two witnesses on cells that neither has seen; None where these are too few.

    Args:
        network: (n,) log-odds of the network.
        scores: (n,) as in `Scales.testify`, by discriminants without the cells' patients.
        parasitized: (n,) what the cells are.
    """
    kinds = np.bincount(parasitized.astype(np.intp), minlength=2)
    if kinds.sum() < LEAST_CELLS or kinds.min() < LEAST_OF_A_KIND:
        return None
    first = fit_adaptation(network, parasitized)
    second = fit_adaptation(scores, parasitized)
    both = fit_adaptation(first.of(network) + second.of(scores), parasitized)
    return Scales(first, second, both)
