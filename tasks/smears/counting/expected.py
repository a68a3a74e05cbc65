"""Estimate the errors of unlabelled diagnoses from their calibrated probabilities.

A diagnosis of probability p is right with probability p, so sums over cells estimate the result of
a comparison with the truth (confidence-based performance estimation, CBPE, as in NannyML). This
holds as long as the calibration does; a shift of features away from those of the calibration also
shifts the estimates.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from tasks.types import Float, Index, Mask

Z = float(ndtri(0.975))


@dataclass(frozen=True)
class ExpectedErrors:
    """Estimates for one group of cells, with 95% intervals from chance alone.

    ``false_calls`` and ``missed`` are the expected numbers of false calls and of misses;
    ``sensitivity`` and ``accuracy`` are shares, NaN without cells.
    """

    false_calls: float
    missed: float
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True)
class ProbabilitySums:
    """Additive sums over cells of some groups (G,), from which expected errors are computed.

    ``called`` and ``others`` count cells, ``p_*`` sum their probability of being parasitized,
    ``v_*`` sum p (1 - p).
    """

    called: Float
    others: Float
    p_called: Float
    p_others: Float
    v_called: Float
    v_others: Float

    @classmethod
    def of(cls, probability: Float, called: Mask, group: Index, groups: int) -> "ProbabilitySums":
        """Sum over cells.

        Args:
            probability: (n,) of being parasitized; cells without a finite one are left out.
            called: (n,), whether they are called parasitized.
            group: (n,), of each cell.
            groups: G.
        """
        sums = []
        known = np.isfinite(probability)
        for weight in (np.ones(len(probability)), probability, probability * (1 - probability)):
            for which in (called & known, ~called & known):
                sums.append(np.bincount(group[which], weight[which], minlength=groups))
        return cls(*(np.asarray(each, np.float64) for each in sums))

    def __add__(self, other: "ProbabilitySums") -> "ProbabilitySums":
        return ProbabilitySums(*(a + b for a, b in zip(self._all, other._all, strict=True)))

    @property
    def _all(self) -> tuple[Float, ...]:
        return tuple(vars(self).values())

    def expected(self, group: int) -> ExpectedErrors:
        """Estimate the errors of a group."""
        called, others, hits, missed, v_hits, v_missed = (float(x[group]) for x in self._all)
        cells, parasites = called + others, hits + missed
        sensitivity = hits / parasites if parasites else float("nan")
        accuracy = (hits + others - missed) / cells if cells else float("nan")
        # The delta method: of a share of two independent sums, and of a mean.
        spread = (1 - sensitivity) ** 2 * v_hits + sensitivity**2 * v_missed
        by_sensitivity = Z * np.sqrt(spread) / parasites if parasites else float("nan")
        by_accuracy = Z * np.sqrt(v_hits + v_missed) / cells if cells else float("nan")
        return ExpectedErrors(
            called - hits,
            missed,
            sensitivity,
            *_within(sensitivity, by_sensitivity),
            accuracy,
            *_within(accuracy, by_accuracy),
        )


def _within(value: float, half: float) -> tuple[float, float]:
    return float(np.clip(value - half, 0, 1)), float(np.clip(value + half, 0, 1))
