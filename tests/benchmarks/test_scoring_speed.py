"""Scoring 10,000 images against pytorch-ood and against the reference formula, on one thread.

The reference code of the Mahalanobis score takes the diagonal of X P X^T, a B x B matrix.
pytorch-ood computes in float32, ours in float64.
"""

from collections.abc import Callable

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from pytorch_ood.detector import Mahalanobis

from tasks.detector.mahalanobis import TiedGaussian, nearest_class_distance, tied_gaussian
from tasks.detector.moments import moments
from tasks.types import Float
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.peak import extra_peak

B, D, CLASSES, FITTED = (1_000, 64, 2, 1_000) if QUICK else (10_000, 512, 2, 5_000)
ROUNDS = 3 if QUICK else 5

Features = NDArray[np.float32]

pytestmark = pytest.mark.usefixtures("as_a_job")


def reference(gaussian: TiedGaussian, precision: Float, features: Features) -> Float:
    """The formula as it is published: all pairs of images, for the sake of the diagonal."""
    found = []
    for mean in gaussian.means:
        centred = features - mean
        found.append(np.diag(centred @ precision @ centred.T))
    return np.min(found, axis=0)


def scorers() -> dict[str, Callable[[], object]]:
    """Every way, on the same features and fitted to the same."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, FITTED)
    deviations = np.linspace(0.1, 2.0, D, dtype=np.float32)
    fitted = rng.standard_normal((FITTED, D), np.float32) * deviations
    fitted += labels[:, None].astype(np.float32)
    features = rng.standard_normal((B, D), np.float32) * 1.5 * deviations
    gaussian = tied_gaussian(moments(fitted, labels, CLASSES))
    inverse = np.linalg.inv(gaussian.factor)
    precision = inverse.T @ inverse
    rival = Mahalanobis(None).fit_features(torch.from_numpy(fitted), torch.from_numpy(labels))
    tensor = torch.from_numpy(features)
    return {
        "ours": lambda: nearest_class_distance(gaussian, features),
        "pytorch-ood": lambda: rival.predict_features(tensor),
        "reference": lambda: reference(gaussian, precision, features),
    }


def fits(name: str) -> bool:
    """Whether there is room for two matrices of B x B."""
    return name != "reference" or psutil.virtual_memory().available > 3 * B * B * 8


@pytest.mark.benchmark
def test_time_of_scoring(record: Record) -> None:
    ways = {name: way for name, way in scorers().items() if fits(name)}
    answers = {name: np.asarray(way()) for name, way in ways.items()}
    # pytorch-ood shrinks nothing, so its distances are others.
    assert np.corrcoef(answers["ours"], answers["pytorch-ood"])[0, 1] > 0.9
    if "reference" in answers:
        np.testing.assert_allclose(answers["ours"], answers["reference"], rtol=1e-6)
    taken = in_turn(ROUNDS, ways)
    for name in ways.keys() - {"ours"}:
        record(f"{B} x {D}, score / {name}", "s", ours=taken["ours"], rival=taken[name])


def prepared(name: str) -> Callable[[], object]:
    torch.set_num_threads(1)
    return scorers()[name]


@pytest.mark.benchmark
def test_memory_of_scoring(record: Record) -> None:
    taken = {name: extra_peak(prepared, name) for name in scorers() if fits(name)}
    for name in taken.keys() - {"ours"}:
        record(f"{B} x {D}, peak / {name}", "MiB", ours=[taken["ours"]], rival=[taken[name]])
    # Centred and whitened features, and no more: B x B would be 760 MiB.
    assert taken["ours"] < 6 * B * D * 8 / 2**20 + 8
