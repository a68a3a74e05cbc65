"""Keep statistics by slide: counts and means by slide and class, and their pooled scatter.

They merge and retract by the algebra of Chan, Golub & LeVeque (1979). The random-effects model of
``tasks.detector.slides.normal`` is estimated from them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tasks import bundles
from tasks.types import Float, Index, Integers, Numbers, laboratory_of

MOST_REFERENCE = 5_000  # cells in a reference, spread evenly over the slide


class GroupKey(NamedTuple):
    """The key of a group: the cells of one slide, of one patient, in one batch."""

    batch: str
    patient: str
    slide: str

    @property
    def laboratory(self) -> str:
        """Return the laboratory that the patient's name says; empty if there is none."""
        return laboratory_of(self.patient)


@dataclass(frozen=True)
class GroupStatistics(bundles.Bundle):
    """Counts and means by group and class, and the scatter within groups and classes.

    ``keys`` are G in ascending order; ``n`` is (G, C); by tap, ``means`` are (G, C, d), 0 without
    cells, and ``scatter`` is (C, d, d), the sum over groups of sum (f - fbar)(f - fbar)^T.
    """

    keys: tuple[GroupKey, ...]
    n: Float
    means: dict[str, Float]
    scatter: dict[str, Float]

    @property
    def taps(self) -> list[str]:
        """Return the taps' names in ascending order."""
        return sorted(self.means)

    @property
    def classes(self) -> int:
        """Return the number of classes C."""
        return int(self.n.shape[1])

    def of_taps(self, taps: Collection[str]) -> "GroupStatistics":
        """Return the statistics of some taps."""
        some = ({tap: values[tap] for tap in taps} for values in (self.means, self.scatter))
        return GroupStatistics(self.keys, self.n, *some)


def slide_keys(
    batch: str, patients: Iterable[str | None], slides: Iterable[str | None]
) -> list[GroupKey]:
    """Return the group of each cell of a batch; cells without a slide form one."""
    pairs = zip(patients, slides, strict=True)
    return [GroupKey(batch, patient or "", slide or "") for patient, slide in pairs]


def empty_groups(tap_widths: Mapping[str, int], classes: int) -> GroupStatistics:
    """Make empty statistics, the neutral element of `merge_groups`."""
    return GroupStatistics(
        (),
        np.zeros((0, classes)),
        {tap: np.zeros((0, classes, d)) for tap, d in tap_widths.items()},
        {tap: np.zeros((classes, d, d)) for tap, d in tap_widths.items()},
    )


def group_statistics(
    taps: Mapping[str, Numbers], labels: Integers, keys: Sequence[GroupKey], classes: int
) -> GroupStatistics:
    """Compute the statistics of cells in groups, in two passes over float64.

    Cells with a negative label (n,) are left out; of the others the features (n, d) are finite at
    every tap, and the labels below the number of ``classes``, as `moments` checks.
    """
    counted = np.flatnonzero(labels >= 0)
    names = sorted({keys[row] for row in counted.tolist()})
    number = {key: place for place, key in enumerate(names)}
    cell = np.asarray([number[keys[row]] * classes for row in counted.tolist()], np.intp)
    cell += np.asarray(labels)[counted]
    order = np.argsort(cell, kind="stable")
    rows, cell = counted[order], cell[order]
    n = np.bincount(cell, minlength=len(names) * classes).astype(np.float64)
    means, scatter = {}, {}
    for tap, features in taps.items():
        sorted_rows = np.asarray(features[rows], np.float64)
        means[tap], scatter[tap] = _moments(sorted_rows, cell, n, classes)
    return GroupStatistics(tuple(names), n.reshape(-1, classes), means, scatter)


def _moments(rows: Float, cell: Index, n: Float, classes: int) -> tuple[Float, Float]:
    """Compute means (G, C, d) and scatter (C, d, d) of rows sorted by group and class."""
    d = rows.shape[1]
    means, scatter = np.zeros((len(n), d)), np.zeros((classes, d, d))
    filled = np.flatnonzero(n)
    if len(filled):
        starts = np.concatenate([[0], np.cumsum(n[filled])[:-1]]).astype(np.intp)

        def averaged(values: Float) -> Float:
            return np.asarray(np.add.reduceat(values, starts) / n[filled, None])

        means[filled] = averaged(rows)
        centred = rows - means[cell]
        # The mean's rounding error is removed, so that data with an offset lose no digits.
        correction = np.zeros_like(means)
        correction[filled] = averaged(centred)
        means += correction
        centred -= correction[cell]
        for c in range(classes):
            of_class = centred[cell % classes == c]
            scatter[c] = of_class.T @ of_class
    return means.reshape(-1, classes, d), scatter


def merge_groups(a: GroupStatistics, b: GroupStatistics) -> GroupStatistics:
    """Merge the statistics of two samples; a group in both becomes one."""
    _check_same_shape(a, b)
    keys = tuple(sorted({*a.keys, *b.keys}))
    (at, bt), n = _places(keys, a, b), np.zeros((len(keys), a.classes))
    n_a, n_b = n.copy(), n.copy()
    n_a[at], n_b[bt] = a.n, b.n
    n = n_a + n_b
    share = np.divide(n_b, n, out=np.zeros_like(n), where=n > 0)
    both = np.flatnonzero((n_a > 0).any(axis=1) & (n_b > 0).any(axis=1))
    means, scatter = {}, {}
    for tap in a.taps:
        mean_a, mean_b = (np.zeros((*n.shape, a.means[tap].shape[2])) for _ in "ab")
        mean_a[at], mean_b[bt] = a.means[tap], b.means[tap]
        # The difference from an empty group, whose mean is 0, has weight 0 or 1 and is exact.
        delta = np.where((n_a > 0)[:, :, None], mean_b - mean_a, mean_b)
        means[tap] = np.where(n_b[:, :, None] > 0, mean_a + delta * share[:, :, None], mean_a)
        scatter[tap] = a.scatter[tap] + b.scatter[tap]
        scatter[tap] += _outer(delta[both], (n_a * share)[both])
    return GroupStatistics(keys, n, means, scatter)


def retract_groups(total: GroupStatistics, part: GroupStatistics) -> GroupStatistics:
    """Remove ``part``, and groups without cells left, from ``total``, into which it was merged.

    Other groups keep counts and means to the last bit. ValueError if a group has fewer cells in
    ``total`` than in ``part``.
    """
    _check_same_shape(total, part)
    if missing := set(part.keys) - set(total.keys):
        raise ValueError(f"{min(missing)} is not in these statistics")
    (places,) = _places(total.keys, part)
    left = total.n[places] - part.n
    if (left < 0).any():
        raise ValueError(f"cannot take {part.n.sum():g} cells out: some groups have fewer")
    n = total.n.copy()
    n[places] = left
    stays = n.sum(axis=1) > 0
    ratio = np.divide(part.n, left, out=np.zeros_like(left), where=left > 0)
    weight = np.divide(
        left * part.n, total.n[places], out=np.zeros_like(left), where=total.n[places] > 0
    )
    nothing = n.sum() - np.count_nonzero(n) == 0
    means, scatter = {}, {}
    for tap in total.taps:
        before = total.means[tap][places]
        mean = before - (part.means[tap] - before) * ratio[:, :, None]
        mean[left == 0] = 0.0
        means[tap] = total.means[tap].copy()
        means[tap][places] = mean
        means[tap] = means[tap][stays]
        rest = total.scatter[tap] - part.scatter[tap] - _outer(part.means[tap] - mean, weight)
        # If no group has two cells of a class there is no scatter, but rounding would leave some.
        alone = (n - 1).clip(min=0).sum(axis=0) == 0
        rest[alone] = 0.0
        scatter[tap] = np.zeros_like(rest) if nothing else rest
    keys = tuple(total.keys[place] for place in np.flatnonzero(stays).tolist())
    return GroupStatistics(keys, n[stays], means, scatter)


def coarser(statistics: GroupStatistics, key: Callable[[GroupKey], GroupKey]) -> GroupStatistics:
    """Merge groups exactly into larger ones: ``key`` maps a group to the one it is part of."""
    wanted = [key(each) for each in statistics.keys]
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    total = empty_groups(
        {tap: means.shape[2] for tap, means in statistics.means.items()}, statistics.classes
    )
    layers: list[list[int]] = []  # the first, second, ... of every larger group
    seen: dict[GroupKey, int] = {}
    for place in order:
        depth = seen[wanted[place]] = seen.get(wanted[place], -1) + 1
        if depth == len(layers):
            layers.append([])
        layers[depth].append(place)
    for places in layers:
        layer = GroupStatistics(
            tuple(wanted[place] for place in places),
            statistics.n[places],
            {tap: means[places] for tap, means in statistics.means.items()},
            {tap: np.zeros_like(scatter) for tap, scatter in statistics.scatter.items()},
        )
        total = merge_groups(total, layer)
    scatter = {tap: total.scatter[tap] + statistics.scatter[tap] for tap in statistics.taps}
    return GroupStatistics(total.keys, total.n, total.means, scatter)


def by_patient(key: GroupKey) -> GroupKey:
    """Return the group of a patient over all batches; a slide without a patient is its own."""
    return GroupKey("", key.patient, "") if key.patient else GroupKey("", "", key.slide)


def _places(keys: tuple[GroupKey, ...], *parts: GroupStatistics) -> Iterator[Index]:
    number = {key: place for place, key in enumerate(keys)}
    return (np.asarray([number[key] for key in part.keys], np.intp) for part in parts)


def _outer(delta: Float, weight: Float) -> Float:
    """Sum the weighted squares (C, d, d) of differences (G, C, d); weights are (G, C)."""
    return np.stack(
        [(delta[:, c] * weight[:, c, None]).T @ delta[:, c] for c in range(delta.shape[1])]
    )


def _check_same_shape(a: GroupStatistics, b: GroupStatistics) -> None:
    one, other = ({tap: each.scatter[tap].shape for tap in each.taps} for each in (a, b))
    if one != other:
        raise ValueError(f"statistics of {one} cannot be combined with {other}")


def reference_rows(n: int, most: int = MOST_REFERENCE) -> Index:
    """Choose the cells of a slide's n for its reference: all, or ``most`` spread evenly."""
    return np.arange(min(n, most), dtype=np.intp) * n // max(min(n, most), 1)
