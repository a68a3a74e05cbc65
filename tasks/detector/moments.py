"""Class statistics that can be added to and taken from, exactly, without the data.

The state of one tap is, for every class, the count n, the mean m and the scatter
M = sum (f - m)(f - m)^T. Two states merge by the pairwise update of Chan, Golub & LeVeque (1979);
see Schubert & Gertz (2018) for its accuracy. Read backwards, the same algebra retracts one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

from tasks.types import Float

SPACES = ("raw", "unit")  # features as they are, and on the unit sphere (Mueller & Hein 2025)


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter by class: ``n`` (C,), ``mean`` (C, d), ``scatter`` (C, d, d)."""

    n: Float
    mean: Float
    scatter: Float

    @classmethod
    def empty(cls, classes: int, width: int) -> "Moments":
        """The moments of nothing, the neutral element of `merge`."""
        return cls(np.zeros(classes), np.zeros((classes, width)), np.zeros((classes, width, width)))

    @property
    def classes(self) -> int:
        """The number of classes C."""
        return int(self.mean.shape[0])

    @property
    def width(self) -> int:
        """The number of features d."""
        return int(self.mean.shape[1])


States = dict[str, Moments]  # by "<tap>/<space>"


def moments(features: NDArray[np.floating], labels: NDArray[np.integer], classes: int) -> Moments:
    """The moments of some images, in two passes over float64.

    Args:
        features: (n, d), finite.
        labels: (n,), the class of each row; rows with a negative label are left out.
        classes: C.

    Raises:
        ValueError: a feature is not finite, a label is too large, or the lengths differ.
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
        # The mean's own rounding is taken out, so that offset data lose no digits.
        correction = centred.mean(axis=0)
        centred -= correction
        state.n[c] = len(rows)
        state.mean[c] = mean + correction
        state.scatter[c] = centred.T @ centred
    return state


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both samples together."""
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
    """What is left of ``total`` when ``part``, which was merged into it, is taken out.

    The error of the scatter is a few rounding errors of that of ``total``, times 1 + |mean| / sd:
    what is left is less exact the less of ``total`` it is.

    Raises:
        ValueError: a class has fewer images in ``total`` than in ``part``.
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
    # No image has a mean, one image has no scatter: rounding must not claim otherwise.
    mean[n == 0] = 0.0
    scatter[n <= 1] = 0.0
    return Moments(n, mean, scatter)


def partial_fit(
    state: Moments, features: NDArray[np.floating], labels: NDArray[np.integer]
) -> Moments:
    """The state after some more images; see `moments` for the arguments."""
    return merge(state, moments(features, labels, state.classes))


def statistics_of(
    taps: Mapping[str, NDArray[np.floating]], labels: NDArray[np.integer], classes: int
) -> States:
    """The moments of every tap, (n, d) each, in both spaces."""
    return {
        f"{tap}/{space}": moments(in_space(space, features), labels, classes)
        for tap, features in taps.items()
        for space in SPACES
    }


def empty_statistics(tap_widths: Mapping[str, int], classes: int) -> States:
    """The statistics of nothing."""
    return {
        f"{tap}/{space}": Moments.empty(classes, width)
        for tap, width in tap_widths.items()
        for space in SPACES
    }


def merge_statistics(a: States, b: States) -> States:
    """`merge` for every tap and space; KeyError where they differ."""
    return {key: merge(a[key], b[key]) for key in a.keys() | b.keys()}


def retract_statistics(total: States, part: States) -> States:
    """`retract` for every tap and space; KeyError where they differ."""
    return {key: retract(total[key], part[key]) for key in total.keys() | part.keys()}


def merge_tree(parts: Iterable[States]) -> States:
    """Merge statistics pairwise along the binary tree that their order alone decides.

    Rounding grows with the logarithm of their number, and log2 of it are held at once.

    Raises:
        ValueError: there are no parts.
    """
    pending: list[tuple[int, States]] = []  # (height, statistics), heights strictly falling
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


def to_arrays(statistics: States) -> dict[str, Float]:
    """Statistics as named arrays, for keeping."""
    return {
        f"{key}/{name}": getattr(state, name)
        for key, state in sorted(statistics.items())
        for name in ("n", "mean", "scatter")
    }


def from_arrays(arrays: Mapping[str, Float]) -> States:
    """Statistics back from `to_arrays`."""
    keys = [name.removesuffix("/n") for name in arrays if name.endswith("/n")]
    return {
        key: Moments(*(arrays[f"{key}/{name}"] for name in ("n", "mean", "scatter")))
        for key in keys
    }


def unit(features: NDArray[np.floating]) -> Float:
    """Features on the unit sphere, f / ||f||_2, as (n, d); a zero vector stays zero."""
    wide = np.asarray(features, np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, norm, out=np.zeros_like(wide), where=norm > 0))


def in_space(space: str, features: NDArray[np.floating]) -> Float:
    """Features in one of `SPACES`, as float64 (n, d)."""
    return unit(features) if space == "unit" else np.asarray(features, np.float64)


def _add_outer(matrix: Float, vector: Float, weight: float) -> None:
    """Add weight times v v^T to a matrix in place, in one pass over it."""
    # BLAS counts in columns, and the transpose of the sum is the sum of the transposes.
    dger(weight, vector, vector, a=matrix.T, overwrite_a=1)


def _check_same_shape(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"moments of {a.classes} classes x {a.width} features cannot be combined with "
            f"{b.classes} x {b.width}"
        )
