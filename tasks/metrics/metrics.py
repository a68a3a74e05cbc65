"""Measure a classifier or a detector, with intervals from resampled patients.

Cells of one patient resemble each other, so intervals from resampled cells would be too narrow.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tasks.types import Float, Integers, Mask, Numbers, Texts

# As in the literature on abnormal images, "positive" is the ordinary image for TPR and AUPR-in.
DETECTION = ("AUROC", "TNR at 95% TPR", "detection accuracy", "AUPR in", "AUPR out")
SAMPLES_AT_ONCE = 25
POSITIVE = 0  # place of the class that is diagnosed
SINGLE = "single cells"  # each compared with ordinary cells, without regard to its neighbours


class Interval(NamedTuple):
    """An estimate with the bounds of its 95% interval."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def finite(self) -> dict[str, float | None]:
        """Return the three by name, None where one is not finite."""
        return {k: v if math.isfinite(v) else None for k, v in self._asdict().items()}


class Subject(NamedTuple):
    """The images that are measured: their set, and the cells among which they stand.

    ``strength`` is that of an alteration; ``share`` the set's share of composed cells.
    """

    set: str
    strength: float | None = None
    composition: str = SINGLE
    share: float | None = None


class Result(NamedTuple):
    """A value of a subject, with numbers of images; ``detector`` is None if it is the network's."""

    subject: Subject
    detector: str | None
    measure: str
    found: Interval
    strange: int = 0
    ordinary: int = 0

    def row(self) -> dict[str, Any]:
        """Make a row of the table of results."""
        plain = self._asdict()
        return {**plain.pop("subject")._asdict(), **plain.pop("found").finite(), **plain}


def detection(abnormal: Mask, scores: Float, weights: Float | None = None) -> dict[str, Float]:
    """Measure how well scores separate abnormal images from ordinary ones: `DETECTION`, (R,) each.

    They are by name and equal scikit-learn's, even with ties. ``TNR at 95% TPR`` is the share of
    abnormal images refused at the least threshold that accepts at least 95% of the ordinary ones;
    ``detection accuracy`` is max 1/2 (TPR + TNR); AUPR are average precisions. NaN for samples in
    which one side is empty. ``scores`` (n,) are higher for images that look more abnormal;
    ``weights`` (R, n) say how often each image counts in each sample, by default once.
    """
    if weights is None:
        weights = np.ones((1, len(scores)))
    blocks = [_detection(*counts) for counts in counts_below(abnormal, scores, weights)]
    return dict(zip(DETECTION, np.concatenate(blocks, axis=1), strict=True))


def counts_below(side: Mask, scores: Float, weights: Float) -> Iterator[tuple[Float, Float]]:
    """Count images outside and inside a side (n,) up to each of k scores: (B, 1 + k), B of R."""
    order = np.argsort(scores, kind="stable")
    ends = np.flatnonzero(np.append(scores[order][1:] != scores[order][:-1], True))
    # A few samples at a time, so that their counts stay in the processor's cache.
    for start in range(0, len(weights), SAMPLES_AT_ONCE):
        some = weights[start : start + SAMPLES_AT_ONCE][:, order]
        outside, inside = (
            np.pad(np.cumsum(some * mask[order], axis=1)[:, ends], ((0, 0), (1, 0)))
            for mask in (~side, side)
        )
        yield outside, inside


def _detection(ordinary: Float, other: Float) -> Float:
    n, m = ordinary[:, -1:], other[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = ordinary / n, other / m
        precision_in = ordinary[:, 1:] / (ordinary[:, 1:] + other[:, 1:])
        left_in, left_out = n - ordinary[:, :-1], m - other[:, :-1]
        precision_out = left_out / (left_in + left_out)
    first = np.argmax(tpr >= 0.95 - 1e-12, axis=1)
    values = np.stack(
        [
            np.trapezoid(tpr, fpr, axis=1),
            1.0 - fpr[np.arange(len(fpr)), first],
            0.5 * (1.0 + (tpr - fpr).max(axis=1)),
            # Without images the precision is 0 / 0, and its weight is 0.
            np.nansum(precision_in * np.diff(tpr, axis=1), axis=1),
            np.nansum(precision_out * np.diff(fpr, axis=1), axis=1),
        ]
    )
    values[:, ((n == 0) | (m == 0))[:, 0]] = np.nan
    return values


def resampled(clusters: Integers | Texts, repeats: int = 1000, seed: int = 0) -> Float:
    """Count each of n rows in bootstrap samples of whole clusters, (repeats, n)."""
    _, index = np.unique(clusters, return_inverse=True)
    count = int(index.max()) + 1
    draws = np.random.default_rng(seed).integers(0, count, (repeats, count))
    times = np.stack([np.bincount(draw, minlength=count) for draw in draws])
    return np.asarray(times[:, index], np.float64)


def interval(value: float, draws: Float) -> Interval:
    """Add to a value the 95% percentile interval of its bootstrap draws, without NaN draws."""
    finite = draws[np.isfinite(draws)]
    low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high))


def share(hit: Mask, weights: Float) -> Interval:
    """Compute the share of hits among images (n,), with the interval of `resampled` (R, n)."""
    value = hit.mean() if len(hit) else np.nan
    with np.errstate(invalid="ignore"):
        return interval(float(value), (weights @ hit) / weights.sum(axis=1))


def diagnosis_metrics(
    logits: Numbers, labels: Integers, keys: list[str]
) -> dict[str, dict[str, float | None]]:
    """Measure accuracy, AUROC, sensitivity, specificity, with 95% patient-bootstrap intervals."""
    truth = labels == POSITIVE
    margin = np.asarray(logits[:, POSITIVE] - logits[:, 1 - POSITIVE], np.float64)
    called, weights = margin > 0, resampled(np.unique(keys, return_inverse=True)[1])
    whole, drawn = (detection(truth, margin, times)["AUROC"] for times in (None, weights))
    found = {
        "accuracy": share(called == truth, weights),
        "AUROC": interval(whole[0], drawn),
        "sensitivity": share(called[truth], weights[:, truth]),
        "specificity": share(~called[~truth], weights[:, ~truth]),
    }
    return {name: each.finite() for name, each in found.items()}
