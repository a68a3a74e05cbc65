"""Measure cross-validated diagnoses, in all and by stain, with intervals over patients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks import bundles
from tasks.metrics.metrics import counts_below, detection, interval, resampled
from tasks.types import Float, Integers, Mask

FALSE_POSITIVE_RATES = (1e-2, 3e-3, 1e-3)
BINS = 15  # of confidence, as in Guo et al. (2017)
REPEATS = 500


@dataclass(frozen=True)
class Diagnosed:
    """Images diagnosed by networks that had not seen their patients.

    ``positive`` (n,) is the label, ``log_odds`` (n,) and ``probability`` (n,) are of the positive
    class, ``patients`` and ``stains`` (n,) are numbers.
    """

    positive: Mask
    log_odds: Float
    probability: Float
    patients: Integers
    stains: Integers


def metrics_by_stain(found: Diagnosed, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """Make a row for each metric of all images (stain None), and of each stain of several.

    It has ``stain``, ``patients``, ``images``, ``metric``, ``value``, ``low`` and ``high``; a value
    is None if it cannot be computed.
    """
    stains = np.unique(found.stains).tolist()
    rows = _rows(None, found, repeats)
    if len(stains) > 1:
        for stain in stains:
            images = bundles.take(found, np.flatnonzero(found.stains == stain))
            rows += _rows(stain, images, repeats)
    return rows


def _rows(stain: int | None, images: Diagnosed, repeats: int) -> list[dict[str, Any]]:
    once = np.ones((1, len(images.positive)))
    values = measured(images, once)
    draws = measured(images, resampled(images.patients, repeats))
    patients = len(np.unique(images.patients))
    about = {"stain": stain, "patients": patients, "images": len(images.positive)}
    return [
        {**about, "metric": name, **interval(value[0], draws[name]).finite()}
        for name, value in values.items()
    ]


def measured(found: Diagnosed, weights: Float) -> dict[str, Float]:
    """Compute the metrics (R,) by name; weights (R, n) are counts of images."""
    right = (found.log_odds > 0) == found.positive
    auroc = detection(found.positive, found.log_odds, weights)["AUROC"]
    by_rate = sensitivities(found.positive, found.log_odds, weights)
    return {
        "accuracy": weights @ right / weights.sum(axis=1),
        "AUROC": auroc,
        **{
            f"sensitivity at {rate:g}": each
            for rate, each in zip(FALSE_POSITIVE_RATES, by_rate.T, strict=True)
        },
        "calibration error": calibration_error(found.probability, right, weights),
    }


def sensitivities(
    positive: Mask, scores: Float, weights: Float, rates: Sequence[float] = FALSE_POSITIVE_RATES
) -> Float:
    """Compute the share of positive images (n,) above the least threshold of false-positive rates.

    ``scores`` (n,) are higher for images that look positive; ``weights`` (R, n) say how often each
    image counts. The result (R, len(rates)) is NaN without positive or without negative images.
    """
    shares = []
    for counts in counts_below(positive, scores, weights):
        with np.errstate(invalid="ignore", divide="ignore"):
            false, true = ((below[:, -1:] - below) / below[:, -1:] for below in counts)
        found = np.stack([np.where(false <= rate, true, 0.0).max(axis=1) for rate in rates], axis=1)
        shares.append(np.where(np.isnan(true[:, :1]) | np.isnan(false[:, :1]), np.nan, found))
    return np.concatenate(shares)


def calibration_error(probability: Float, right: Mask, weights: Float) -> Float:
    """Compute the expected calibration error (R,): |confidence - accuracy|, averaged over bins.

    Confidence is the probability of the diagnosis, from 1/2 to 1, in `BINS` bins of equal width
    over [0, 1] (Guo et al. 2017). ``probability`` (n,) is that of the positive class; ``right``
    (n,) marks right diagnoses, and ``weights`` (R, n) say how often each image counts.
    """
    confidence = np.maximum(probability, 1.0 - probability)
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    excess = np.zeros((len(probability), BINS))
    excess[np.arange(len(probability)), bins] = confidence - right
    return np.asarray(np.abs(weights @ excess).sum(axis=1) / weights.sum(axis=1))
