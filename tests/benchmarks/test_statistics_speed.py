"""Class statistics against scikit-learn's and pytorch-ood's, on one thread.

scikit-learn fits one covariance to features that are centred by class, in the features' float32
unless it says float64, and inverts it unless it is told not to. pytorch-ood sums and inverts in
float32. Ours are float64 throughout.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_ood.detector import Mahalanobis
from sklearn.covariance import EmpiricalCovariance

from tasks.detector.mahalanobis import tied_gaussian
from tasks.detector.moments import Moments, merge, moments
from tests.support.measuring import QUICK, Record, in_turn

CLASSES, CHUNK = 2, 512
ROUNDS = 3 if QUICK else 5
SIZES = [(2_000, 128)] if QUICK else [(10_000, 512), (5_000, 2048)]

Features = NDArray[np.float32]
Labels = NDArray[np.int64]

pytestmark = pytest.mark.usefixtures("as_a_job")


def features_of(n: int, d: int) -> tuple[Features, Labels]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, n)
    features = rng.standard_normal((n, d), np.float32)
    features *= np.linspace(0.1, 2.0, d, dtype=np.float32)
    features += labels[:, None].astype(np.float32)
    return features, labels


def at_once(features: Features, labels: Labels) -> Moments:
    return moments(features, labels, CLASSES)


def in_chunks(features: Features, labels: Labels) -> Moments:
    state = Moments.empty(CLASSES, features.shape[1])
    for start in range(0, len(features), CHUNK):
        rows = slice(start, start + CHUNK)
        state = merge(state, moments(features[rows], labels[rows], state.classes))
    return state


def detector(features: Features, labels: Labels) -> object:
    return tied_gaussian(at_once(features, labels))


def sklearn_fit(features: Features, labels: Labels, precision: bool = True) -> EmpiricalCovariance:
    means = np.stack([features[labels == c].mean(axis=0) for c in range(CLASSES)])
    estimator = EmpiricalCovariance(assume_centered=True, store_precision=precision)
    return estimator.fit(features - means[labels])


def sklearn_sums(features: Features, labels: Labels) -> object:
    return sklearn_fit(features, labels, precision=False)


def sklearn_sums_float64(features: Features, labels: Labels) -> object:
    return sklearn_fit(features.astype(np.float64), labels, precision=False)  # type: ignore[arg-type]


def pytorch_ood_fit(features: Features, labels: Labels) -> object:
    return Mahalanobis(None).fit_features(torch.from_numpy(features), torch.from_numpy(labels))


WAYS: dict[str, Callable[[Features, Labels], object]] = {
    "moments": at_once,
    "partial_fit": in_chunks,
    "moments + tied_gaussian": detector,
    "sklearn fit": sklearn_fit,
    "sklearn fit, no inverse": sklearn_sums,
    "sklearn fit, no inverse, float64": sklearn_sums_float64,
    "pytorch-ood fit_features": pytorch_ood_fit,
}
COMPARED = [
    ("moments", "sklearn fit"),
    ("moments", "sklearn fit, no inverse"),
    ("moments", "sklearn fit, no inverse, float64"),
    ("partial_fit", "sklearn fit"),
    ("partial_fit", "sklearn fit, no inverse, float64"),
    ("moments", "pytorch-ood fit_features"),
    ("partial_fit", "pytorch-ood fit_features"),
    ("moments + tied_gaussian", "pytorch-ood fit_features"),
]


@pytest.mark.benchmark
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_time_of_statistics(n: int, d: int, record: Record) -> None:
    features, labels = features_of(n, d)
    ours = at_once(features, labels)
    np.testing.assert_allclose(in_chunks(features, labels).scatter, ours.scatter, atol=1e-8 * n)
    theirs = sklearn_fit(features, labels, precision=False).covariance_
    np.testing.assert_allclose(ours.scatter.sum(axis=0) / n, theirs, atol=1e-4)
    runs = {name: lambda way=way: way(features, labels) for name, way in WAYS.items()}
    taken = in_turn(ROUNDS, runs)
    for mine, other in COMPARED:
        record(f"{n} x {d}, {mine} / {other}", "s", ours=taken[mine], rival=taken[other])
