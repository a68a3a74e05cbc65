"""Keep class statistics to which data can be added, and from which it can be removed, exactly.

The state of one tap is, for every class, the count n, the mean m and the scatter
M = sum (f - m)(f - m)^T. Two states merge by the pairwise update of Chan, Golub & LeVeque (1979);
see Schubert & Gertz (2018) for its accuracy. The same algebra backwards retracts a state.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dger

from tasks import bundles, types
from tasks.detector.slides import groups
from tasks.detector.slides.groups import GroupKey, GroupStatistics


@dataclass(frozen=True)
class Moments(bundles.Bundle):
    """Count, mean and scatter by class: ``n`` (C,), ``mean`` (C, d), ``scatter`` (C, d, d)."""

    n: types.Float
    mean: types.Float
    scatter: types.Float

    @classmethod
    def empty(cls, classes: int, width: int) -> "Moments":
        """Make empty moments, the neutral element of `merge`."""
        return cls(np.zeros(classes), np.zeros((classes, width)), np.zeros((classes, width, width)))

    @property
    def classes(self) -> int:
        """Return the number of classes C."""
        return int(self.mean.shape[0])

    @property
    def width(self) -> int:
        """Return the number of features d."""
        return int(self.mean.shape[1])


@dataclass(frozen=True)
class ClassStatistics(bundles.Bundle):
    """The moments of every tap of a network, by the tap's name, and the statistics by slide."""

    taps: Mapping[str, Moments]
    slides: GroupStatistics

    @classmethod
    def empty(cls, tap_widths: Mapping[str, int], classes: int) -> "ClassStatistics":
        """Make empty statistics."""
        return cls(
            {tap: Moments.empty(classes, width) for tap, width in tap_widths.items()},
            groups.empty_groups(tap_widths, classes),
        )

    @property
    def n(self) -> types.Float:
        """Return the number of images by class, (C,)."""
        return next(iter(self.taps.values())).n

    def of_taps(self, taps: Collection[str]) -> "ClassStatistics":
        """Return the statistics of some taps."""
        return ClassStatistics({tap: self.taps[tap] for tap in taps}, self.slides.of_taps(taps))


def moments(features: types.Numbers, labels: types.Integers, classes: int) -> Moments:
    """Compute the moments of images with features (n, d), in two passes over float64.

    ``labels`` (n,) are below the number of ``classes``; rows with a negative one are left out.
    ValueError if a feature is not finite, a label is too large, or the lengths differ.
    """
    if len(features) != len(labels):
        raise ValueError(f"{len(features)} rows of features but {len(labels)} labels")
    if len(labels) and labels.max() >= classes:
        raise ValueError(f"label {labels.max()} but only {classes} classes")
    state = Moments.empty(classes, features.shape[1])
    for c in range(classes):
        rows = np.asarray(features[labels == c], np.float64)
        if not len(rows):
            continue
        if not np.isfinite(rows).all():
            raise ValueError("features of labelled images must be finite")
        mean = rows.mean(axis=0)
        centred = rows - mean
        # The mean's rounding error is removed, so that data with an offset lose no digits.
        correction = centred.mean(axis=0)
        centred -= correction
        state.n[c] = len(rows)
        state.mean[c] = mean + correction
        state.scatter[c] = centred.T @ centred
    return state


def merge(a: Moments, b: Moments) -> Moments:
    """Compute the moments of two samples together."""
    _check_same_shape(a, b)
    n = a.n + b.n
    share = np.divide(b.n, n, out=np.zeros_like(n), where=n > 0)
    delta = b.mean - a.mean
    mean = a.mean + delta * share[:, None]
    scatter = a.scatter + b.scatter
    for c, weight in enumerate(a.n * share):
        _add_outer(scatter[c], delta[c], weight)
    return Moments(n, mean, scatter)


def retract(total: Moments, part: Moments) -> Moments:
    """Remove ``part`` from ``total``, into which it was merged; ValueError if it cannot be.

    The error of the scatter is a few rounding errors of ``total``'s scatter, times
    1 + |mean| / sd: a small remainder of ``total`` is less exact than a large one.
    """
    _check_same_shape(total, part)
    n = total.n - part.n
    if (n < 0).any():
        raise ValueError(f"cannot take {part.n.tolist()} images out of {total.n.tolist()}")
    ratio = np.divide(part.n, n, out=np.zeros_like(n), where=n > 0)
    mean = total.mean - (part.mean - total.mean) * ratio[:, None]
    delta = part.mean - mean
    weight = np.divide(n * part.n, total.n, out=np.zeros_like(n), where=total.n > 0)
    scatter = total.scatter - part.scatter
    for c, w in enumerate(weight):
        _add_outer(scatter[c], delta[c], -w)
    # No images have no mean, and one image has no scatter, whatever rounding leaves.
    mean[n == 0] = 0.0
    scatter[n <= 1] = 0.0
    return Moments(n, mean, scatter)


def statistics_of(
    taps: Mapping[str, types.Numbers],
    labels: types.Integers,
    classes: int,
    keys: Sequence[GroupKey],
) -> ClassStatistics:
    """Compute statistics of cells by features (n, d) by tap, without labels (n,) below 0."""
    return ClassStatistics(
        {tap: moments(features, labels, classes) for tap, features in taps.items()},
        groups.group_statistics(taps, labels, keys, classes),
    )


def merge_statistics(a: ClassStatistics, b: ClassStatistics) -> ClassStatistics:
    """`merge` every tap, and the slides; KeyError if the taps differ."""
    taps = {tap: merge(a.taps[tap], b.taps[tap]) for tap in {**a.taps, **b.taps}}
    return ClassStatistics(taps, groups.merge_groups(a.slides, b.slides))


def retract_statistics(total: ClassStatistics, part: ClassStatistics) -> ClassStatistics:
    """`retract` every tap, and the slides; KeyError if the taps differ."""
    taps = {tap: retract(total.taps[tap], part.taps[tap]) for tap in {**total.taps, **part.taps}}
    return ClassStatistics(taps, groups.retract_groups(total.slides, part.slides))


def merge_tree(parts: Iterable[ClassStatistics]) -> ClassStatistics:
    """Merge statistics pairwise along a binary tree that depends only on their order.

    Rounding, and the number in memory, grow with the logarithm of their number.
    """
    pending: list[tuple[int, ClassStatistics]] = []  # (height, statistics), highest first
    for part in parts:
        height = 0
        while pending and pending[-1][0] == height:
            part = merge_statistics(pending.pop()[1], part)
            height += 1
        pending.append((height, part))
    if not pending:
        raise ValueError("nothing to merge")
    total = pending.pop()[1]
    while pending:
        total = merge_statistics(pending.pop()[1], total)
    return total


def _add_outer(matrix: types.Float, vector: types.Float, weight: float) -> None:
    """Add weight times v v^T to a matrix in place, in one pass over it."""
    # BLAS stores by column, and the transpose of the sum is the sum of the transposes.
    dger(weight, vector, vector, a=matrix.T, overwrite_a=1)


def _check_same_shape(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {a.mean.shape} cannot be combined with {b.mean.shape}")
