"""Measure how stable a diagnosis is when its image is filtered.

An attack hides in detail that a blur removes: the log-odds of the diagnosis fall by more than those
of an ordinary image, or of one with noise of the same size (compare Xu, Evans & Qi 2018, "Feature
squeezing"). The ordinary fall is learned from images outside the training set, clean and with
noise.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from tasks.detector.calibration import Calibration, abnormality, calibrate, group_weights
from tasks.types import Float

NOISE = (2, 4, 8)  # of 255: sizes of the sign noise on ordinary images


def log_odds(logits: NDArray[np.floating], classes: NDArray[np.integer]) -> Float:
    """Compute the log-odds (n,) of one class each, in nats, from logits (n, C)."""
    wide = np.asarray(logits, np.float64)
    rows = np.arange(len(wide))
    others = wide.copy()
    others[rows, classes] = -np.inf
    return np.asarray(wide[rows, classes] - logsumexp(others, axis=1))


def losses(first: NDArray[np.floating], filtered: NDArray[np.floating]) -> Float:
    """Compute the loss of the diagnosis' log-odds under filters, (n, F), in nats.

    Args:
        first: logits (n, C) of the images.
        filtered: logits (n, F, C) of each image under F filters.
    """
    diagnosed = np.asarray(first).argmax(axis=1)
    before = log_odds(first, diagnosed)
    after = [log_odds(filtered[:, f], diagnosed) for f in range(filtered.shape[1])]
    return np.asarray(before[:, np.newaxis] - np.stack(after, axis=1))


def calibrate_stability(found: Float, groups: NDArray[np.integer]) -> Calibration:
    """Calibrate stability: standardise on all conditions, and take the level from clean images.

    Noise narrows the effect of filters. A level from all conditions together would call twice as
    many ordinary images of a night unstable as it should.

    Args:
        found: losses (n, K, F) of n images under K conditions, the first without noise.
        groups: (n,), the patient of each image.
    """
    _, conditions, filters = found.shape
    scale = calibrate(found.reshape(-1, filters), np.repeat(groups, conditions))
    scores, weights = abnormality(scale, found[:, 0]), group_weights(groups)
    order = np.argsort(scores, kind="stable")
    return replace(scale, scores=scores[order], weights=weights[order])


def with_noise(
    images: NDArray[np.uint8], size: int, seeds: NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Add or subtract ``size`` of 255 at random, for each pixel and colour.

    Args:
        images: (n, s, s, 3).
        size: of the noise; 0 changes nothing.
        seeds: (n,), one for each image, so that its noise does not depend on the others.
    """
    signs = np.stack(
        [
            np.random.default_rng([int(seed), size]).integers(0, 2, images.shape[1:], np.int16)
            for seed in seeds
        ]
    )
    return np.asarray(np.clip(images + size * (2 * signs - 1), 0, 255), np.uint8)
