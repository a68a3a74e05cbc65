"""Adapt a diagnosis to a laboratory by some of its labelled cells: a scale and a bias of log-odds.

They are fitted as in Platt (1999), with equal total weights for both kinds of cells and a prior
around no change. The order of cells and their features stay, so labels change neither the
abnormality nor the number of cells above a threshold of log-odds before adaptation. Refitting the
last layer to as many cells did no better (`tests/benchmarks/README.md`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.detector.probabilities import Adaptation, balanced, fit_adaptation, log_losses
from tasks.evaluation.metrics import Interval, interval, resampled
from tasks.types import Arrays, Float, Mask

LEAST_CELLS, LEAST_OF_A_KIND = 20, 5  # with fewer, nothing is fitted
LEAST_SLIDES = 5  # at least, for whole slides to be held back
FOLDS = 5
REPEATS = 1000
PARASITES = 1  # their place in a `Trial`'s confusion


@dataclass(frozen=True)
class Labelled:
    """The log-odds (n,) of labelled cells as diagnosed, and their labels.

    ``slides`` (n,) are keys of their patients or slides, without line breaks.
    """

    log_odds: Float
    parasitized: Mask
    slides: tuple[str, ...]

    @classmethod
    def none(cls) -> "Labelled":
        """Make an empty set of labelled cells."""
        return cls(np.empty(0), np.empty(0, bool), ())

    def __add__(self, other: "Labelled") -> "Labelled":
        return Labelled(
            np.concatenate([self.log_odds, other.log_odds]),
            np.concatenate([self.parasitized, other.parasitized]),
            self.slides + other.slides,
        )

    def take(self, rows: Sequence[int]) -> "Labelled":
        """Return some of the cells."""
        chosen = np.asarray(rows, np.intp)
        slides = tuple(self.slides[row] for row in rows)
        return Labelled(self.log_odds[chosen], self.parasitized[chosen], slides)

    def to_arrays(self) -> Arrays:
        """Return named arrays to be stored."""
        return {
            "log_odds": self.log_odds,
            "parasitized": self.parasitized,
            "slides": np.frombuffer("\n".join(self.slides).encode(), np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Labelled":
        """Read labelled cells back from `to_arrays`."""
        slides = tuple(arrays["slides"].tobytes().decode().split("\n"))
        return cls(arrays["log_odds"], arrays["parasitized"], slides)


@dataclass(frozen=True)
class Trial:
    """The performance of an adaptation on cells held back from it.

    ``slides`` and ``cells`` count labelled ones; ``gain`` is the fall of the log loss with its
    interval, and ``cautious_gain`` the same if one more cell of each kind were diagnosed wrongly;
    these and accuracies are means of both kinds. ``confusion`` (S, 2, 2) counts the cells of each
    slide by label and diagnosis, healthy first.
    """

    adaptation: Adaptation
    slides: int
    cells: int
    by_slide: bool
    loss_before: float
    loss_after: float
    accuracy_before: float
    accuracy_after: float
    gain: Interval
    cautious_gain: Interval
    confusion: NDArray[np.int64]

    @property
    def accepted(self) -> bool:
        """Return whether held-back cells are certainly diagnosed better.

        A few dozen cells may all be right by chance; then any larger scale seems better, and only
        the cautious gain shows that it may not be.
        """
        return self.gain.low > 0 and self.cautious_gain.low > 0


def try_adaptation(labelled: Labelled) -> Trial | None:
    """Fit an adaptation, and measure similar ones on cells held back from them.

    Whole slides are held back and resampled if enough are labelled, otherwise cells. None if fewer
    than `LEAST_CELLS` are labelled, or too few of a kind.
    """
    x, parasitized = labelled.log_odds, labelled.parasitized
    kinds = np.bincount(parasitized.astype(np.intp), minlength=2)
    if kinds.sum() < LEAST_CELLS or kinds.min() < LEAST_OF_A_KIND:
        return None
    names, slide = np.unique(np.asarray(labelled.slides, object).astype(str), return_inverse=True)
    fold = slide % FOLDS
    by_slide = len(names) >= LEAST_SLIDES and _has_both_kinds(fold, parasitized)
    fold = fold if by_slide else _dealt(parasitized)
    after = np.empty(len(x))
    for each in range(FOLDS):
        held = fold == each
        after[held] = fit_adaptation(x[~held], parasitized[~held]).of(x[held])
    known, cautious = parasitized.astype(np.float64), _cautious(parasitized)
    before_loss, after_loss = log_losses(x, known), log_losses(after, known)
    gained, surely = before_loss - after_loss, log_losses(x, cautious) - log_losses(after, cautious)
    weights = balanced(parasitized)
    confusion = np.zeros((len(names), 2, 2), np.int64)
    np.add.at(confusion, (slide, parasitized.astype(np.intp), (after >= 0).astype(np.intp)), 1)
    group = slide if by_slide else np.arange(len(x))
    return Trial(
        fit_adaptation(x, parasitized),
        slides=len(names),
        cells=len(x),
        by_slide=by_slide,
        loss_before=float(weights @ before_loss),
        loss_after=float(weights @ after_loss),
        accuracy_before=float(weights @ ((x >= 0) == parasitized)),
        accuracy_after=float(weights @ ((after >= 0) == parasitized)),
        gain=_gain(gained, parasitized, group),
        cautious_gain=_gain(surely, parasitized, group),
        confusion=confusion,
    )


def _cautious(parasitized: Mask) -> Float:
    """Compute the probability (n,) that cells should have if one more of their kind were wrong.

    This is Platt's target, from Laplace's rule of succession.
    """
    kinds = np.bincount(parasitized.astype(np.intp), minlength=2)
    right = (kinds + 1) / (kinds + 2)
    return np.asarray(np.where(parasitized, right[1], 1 - right[0]), np.float64)


def _has_both_kinds(fold: NDArray[np.intp], parasitized: Mask) -> bool:
    """Return whether cells of both kinds remain, whichever fold is held back."""
    return all(len(np.unique(parasitized[fold != each])) == 2 for each in range(FOLDS))


def _gain(gained: Float, parasitized: Mask, group: NDArray[np.intp]) -> Interval:
    """Average the gains of cells (n,) over both kinds, with an interval from resampled groups."""
    groups = int(group.max()) + 1
    times = resampled(np.arange(groups), REPEATS)
    means = []
    for kind in (parasitized, ~parasitized):
        sums = np.bincount(group[kind], gained[kind], minlength=groups)
        counts = np.bincount(group[kind], minlength=groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            means.append((times @ sums) / (times @ counts))
    return interval(float(balanced(parasitized) @ gained), np.mean(means, axis=0))


def _dealt(parasitized: Mask) -> NDArray[np.intp]:
    """Deal cells (n,) of each kind into `FOLDS` folds."""
    fold = np.empty(len(parasitized), np.intp)
    for kind in (parasitized, ~parasitized):
        fold[kind] = np.arange(kind.sum()) % FOLDS
    return fold
