"""Compute the scores of rival detectors of abnormal images: higher is more abnormal.

Each is a short function of the evidence on some images (`Evidence`) and of parameters fitted on
others (`Fitted`). A new one takes a function and a line in `SCORES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors

from tasks.bundles import KEPT_AS, Bundle
from tasks.detector.calibration import log_distance
from tasks.detector.detector import Detector
from tasks.detector.detector import score as score_images
from tasks.detector.mahalanobis import TiedGaussian, nearest_class_distance, tied_gaussian
from tasks.detector.moments import Moments
from tasks.detector.probabilities import probabilities
from tasks.types import Float

ODIN_TEMPERATURE = 1000.0
NEIGHBOURS = 50


@dataclass(frozen=True)
class Evidence(Bundle):
    """The evidence on n images.

    ``taps`` are pooled features (n, d) of the network's stages, including `PENULTIMATE`;
    ``logits`` (n, C); ``border`` (n,) the mean brightness in [0, 1] of the outermost pixels;
    ``odin`` the logits and ``moved`` the detector's taps after input pre-processing, by its
    magnitude; ``platelet`` (n,) marks suspected cells with a platelet at their rim, None if no
    class is called "Parasitized".
    """

    taps: Mapping[str, NDArray[np.float32]] = field(metadata={KEPT_AS: "tap"})
    logits: NDArray[np.float32]
    border: NDArray[np.float32]
    odin: Mapping[float, NDArray[np.float32]]
    moved: Mapping[float, Mapping[str, NDArray[np.float32]]]
    platelet: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Residual(Bundle):
    """The directions outside the principal subspace of fitted features (Wang et al. 2022).

    ``origin`` (d,) is where the logits are zero, ``directions`` (d, k) span the complement of the
    principal subspace, ``scale`` makes residuals as large as logits.
    """

    origin: Float
    directions: Float
    scale: float


@dataclass(frozen=True)
class Fitted:
    """The parameters of the compared detectors.

    ``layers`` has a Gaussian for each stage; ``unit_last`` is one for the last features on the unit
    sphere, ``whole`` one around a single mean; ``bank`` (m, d) are some last features on the unit
    sphere; ``last`` is the tap of these features.
    """

    detector: Detector
    last: str
    layers: Mapping[str, TiedGaussian]
    unit_last: TiedGaussian
    whole: TiedGaussian
    residual: Residual
    bank: Float


Score = Callable[[Evidence, Fitted], Float]


def slidewatch(evidence: Evidence, fitted: Fitted) -> Float:
    """Compute the detector's own fused score."""
    return score_images(fitted.detector, evidence.taps).abnormality


def maximum_softmax(evidence: Evidence, fitted: Fitted) -> Float:
    """Score by one minus the probability of the likeliest class (Hendrycks & Gimpel 2017).

    Its logarithm is returned, which gives the same ranking and does not round to zero.
    """
    logits = np.sort(np.asarray(evidence.logits, np.float64), axis=1)
    return np.asarray(logsumexp(logits[:, :-1], axis=1) - logsumexp(logits, axis=1))


def energy(evidence: Evidence, fitted: Fitted) -> Float:
    """Compute the free energy of the logits at temperature 1 (Liu et al. 2020)."""
    return -np.asarray(logsumexp(np.asarray(evidence.logits, np.float64), axis=1))


def k_nearest_neighbours(evidence: Evidence, fitted: Fitted) -> Float:
    """Find the distance to the k-th nearest fitted image on the unit sphere (Sun et al. 2022)."""
    neighbours = min(NEIGHBOURS, len(fitted.bank))
    index = NearestNeighbors(n_neighbors=neighbours).fit(fitted.bank)
    return np.asarray(index.kneighbors(unit(evidence.taps[fitted.last]))[0][:, -1], np.float64)


def mahalanobis_last(evidence: Evidence, fitted: Fitted) -> Float:
    """Compute the Mahalanobis distance of only the last features (Lee et al. 2018)."""
    return nearest_class_distance(fitted.layers[fitted.last], evidence.taps[fitted.last])


def mahalanobis_plus_plus(evidence: Evidence, fitted: Fitted) -> Float:
    """Compute `mahalanobis_last` on the unit sphere (Mueller & Hein 2025)."""
    return nearest_class_distance(fitted.unit_last, unit(evidence.taps[fitted.last]))


def marginal_mahalanobis(evidence: Evidence, fitted: Fitted) -> Float:
    """Compute the distance under one Gaussian for all classes (Kamoi & Kobayashi 2020)."""
    return nearest_class_distance(fitted.whole, evidence.taps[fitted.last])


def relative_mahalanobis(evidence: Evidence, fitted: Fitted) -> Float:
    """Subtract the distance under one Gaussian from that to the nearest class (Ren et al. 2021)."""
    return mahalanobis_last(evidence, fitted) - marginal_mahalanobis(evidence, fitted)


def residual(evidence: Evidence, fitted: Fitted) -> Float:
    """Compute the length of features outside the principal subspace (Wang et al. 2022)."""
    return residual_norm(fitted.residual, evidence.taps[fitted.last])


def vim(evidence: Evidence, fitted: Fitted) -> Float:
    """Add the residual, as a virtual logit, to the energy of the others (Wang et al. 2022)."""
    return fitted.residual.scale * residual(evidence, fitted) + energy(evidence, fitted)


def black_border(evidence: Evidence, fitted: Fitted) -> Float:
    """Score only by the brightness of the border, which is black around a masked cell."""
    return np.asarray(evidence.border, np.float64)


SCORES: dict[str, Score] = {
    "slidewatch": slidewatch,
    "maximum softmax": maximum_softmax,
    "energy": energy,
    "k nearest neighbours": k_nearest_neighbours,
    "mahalanobis, last layer": mahalanobis_last,
    "mahalanobis++": mahalanobis_plus_plus,
    "relative mahalanobis": relative_mahalanobis,
    "marginal mahalanobis": marginal_mahalanobis,
    "residual": residual,
    "ViM": vim,
    "black border": black_border,
}


def odin(evidence: Evidence, magnitude: float) -> Float:
    """Score by 1 - the largest tempered probability after pre-processing (Liang et al. 2018)."""
    return np.asarray(1.0 - probabilities(evidence.odin[magnitude], ODIN_TEMPERATURE).max(axis=1))


def preprocessed(evidence: Evidence, fitted: Fitted, magnitude: float) -> Float:
    """Compute the detector's own score after pre-processing (Lee et al. 2018)."""
    return score_images(fitted.detector, evidence.moved[magnitude]).abnormality


def all_scores(evidence: Evidence, fitted: Fitted) -> dict[str, Float]:
    """Compute every score (n,) by detector; pre-processed ones if the evidence has them."""
    scores = {name: function(evidence, fitted) for name, function in SCORES.items()}
    for magnitude in evidence.odin:
        scores[f"ODIN {magnitude:g}"] = odin(evidence, magnitude)
        scores[f"slidewatch, pre-processed {magnitude:g}"] = preprocessed(
            evidence, fitted, magnitude
        )
    return scores


def layer_distances(evidence: Evidence, fitted: Fitted) -> Float:
    """Compute log distances (n, L) at every stage, for the paper's logistic regression."""
    return log_distance(
        np.stack(
            [nearest_class_distance(g, evidence.taps[tap]) for tap, g in fitted.layers.items()],
            axis=1,
        )
    )


def unit(features: NDArray[np.floating]) -> Float:
    """Project features on the unit sphere, f / ||f||_2, as (n, d); a zero vector stays zero."""
    wide = np.asarray(features, np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, norm, out=np.zeros_like(wide), where=norm > 0))


def one_class(moments: Moments) -> Moments:
    """Merge the statistics of all classes: the scatter within the classes and between them."""
    total = moments.n.sum()
    mean = moments.n @ moments.mean / total
    offset = np.where(moments.n[:, None] > 0, moments.mean - mean, 0.0)
    scatter = moments.scatter.sum(axis=0) + (offset * moments.n[:, None]).T @ offset
    return Moments(np.asarray([total]), mean[None], scatter[None])


def whole_gaussian(moments: Moments) -> TiedGaussian:
    """Fit one Gaussian around the mean of all classes."""
    return tied_gaussian(one_class(moments))


def residual_directions(moments: Moments, weight: Float, bias: Float) -> tuple[Float, Float]:
    """Compute the origin (d,) and the directions (d, k) of `Residual`, only from statistics.

    The origin is -W^+ b; the principal subspace keeps 1,000, 512 or half of the directions, for
    more than 2,000 features, from 768 on, and below (Wang et al. 2022).

    Args:
        moments: of the last features.
        weight: (C, d) of the last layer.
        bias: (C,).
    """
    origin = -np.linalg.pinv(np.asarray(weight, np.float64)) @ np.asarray(bias, np.float64)
    whole = one_class(moments)
    offset = whole.mean[0] - origin
    second = whole.scatter[0] / whole.n[0] + np.outer(offset, offset)
    d = len(origin)
    principal = 1000 if d >= 2048 else 512 if d >= 768 else d // 2
    # eigh sorts in ascending order: the first columns are the directions of least variance.
    _, vectors = eigh(second)
    return origin, np.asarray(vectors[:, : d - principal])


def residual_norm(fitted: Residual, features: NDArray[np.floating]) -> Float:
    """Compute the length (n,) of features (n, d) outside the principal subspace."""
    offsets = np.asarray(features, np.float64) - fitted.origin
    return np.asarray(np.linalg.norm(offsets @ fitted.directions, axis=1))
