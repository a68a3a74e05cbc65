from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from pytorch_ood.detector import ODIN
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import moments
from tasks.network.spec import NetworkSpec
from tasks.smears.evaluation.rivals import NEIGHBOURS, fit_rivals, gather_evidence
from tasks.smears.evaluation.scored import ImageEvidence
from tests.support.networks import drawn

LAST = "penultimate"
RNG = np.random.default_rng(0)
WEIGHT, BIAS = RNG.normal(size=(2, 24)).astype(np.float32), np.float32([0.5, -0.5])
MEANS = RNG.normal(2, 0.5, size=(2, 24))
FITTED_LABELS = np.arange(900, dtype=np.int8) % 2


def features(labels: NDArray[Any], off: float = 0.0) -> NDArray[np.float32]:
    noise = RNG.normal(size=(len(labels), 24)) + off * RNG.normal(size=(len(labels), 24))
    return (MEANS[labels] + noise * np.linspace(0.3, 2, 24)).astype(np.float32)


FITTED = features(FITTED_LABELS)
NEW = np.concatenate([features(RNG.integers(0, 2, 400)), features(RNG.integers(0, 2, 400), 2.0)])
TRUTH = np.arange(800) >= 400


def evidence() -> ImageEvidence:
    logits = NEW @ WEIGHT.T + BIAS
    return ImageEvidence({LAST: NEW}, logits, odin=logits / 2)


@pytest.fixture(scope="module")
def scores() -> dict[str, NDArray[np.float64]]:
    weight, bias = torch.from_numpy(WEIGHT), torch.from_numpy(BIAS)
    rivals = fit_rivals(LAST, FITTED, FITTED_LABELS, weight, bias)
    assert torch.get_default_dtype() == torch.float32
    return {name: rival(evidence()) for name, rival in rivals.items()}


def test_every_rival_gives_every_image_a_finite_number_of_its_own(scores: Any) -> None:
    assert len(scores) == 7
    for values in scores.values():
        assert values.shape == (800,)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
    assert len({values.tobytes() for values in scores.values()}) == 7


def test_what_is_far_from_fitted_features_has_a_higher_score(scores: Any) -> None:
    for name in ("k nearest neighbours", "mahalanobis, last layer", "ViM"):
        assert roc_auc_score(TRUTH, scores[name]) > 0.8, name


def test_scores_are_the_published_ones(scores: Any) -> None:
    logits = np.float64(evidence().logits)
    assert_allclose(scores["maximum softmax"], -softmax(logits, axis=1).max(axis=1))
    assert_allclose(scores["energy"], -logsumexp(logits, axis=1))
    assert_allclose(scores["ODIN"], -softmax(logits / 2000, axis=1).max(axis=1))
    new, fitted = (x / np.linalg.norm(np.float64(x), axis=1)[:, None] for x in (NEW, FITTED))
    distances = np.sort(cdist(new, fitted), axis=1)[:, NEIGHBOURS - 1]
    assert_allclose(scores["k nearest neighbours"], distances, rtol=1e-6)
    # The covariance of slidewatch is shrunken, theirs is not.
    ours = nearest_class_distance(tied_gaussian(moments(FITTED, FITTED_LABELS, 2)), NEW)
    theirs = 2 * len(FITTED) * scores["mahalanobis, last layer"]
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99


def test_few_images_are_all_neighbours_and_have_no_covariance() -> None:
    few = fit_rivals(LAST, FITTED[:9], FITTED_LABELS[:9], torch.ones(2, 24), torch.zeros(2))
    assert set(few) == {"maximum softmax", "energy", "ODIN", "k nearest neighbours"}
    assert np.isfinite(few["k nearest neighbours"](evidence())).all()


def test_odin_sees_images_pre_processed_as_pytorch_ood_does(spec: NetworkSpec) -> None:
    classifier = drawn(spec).requires_grad_(False)
    pixels = torch.rand(5, 3, 32, 32)
    known = evidence().taps[LAST], np.zeros(800, np.int8), torch.ones(2, 24), torch.zeros(2)
    found = gather_evidence(pixels, classifier, odin=True)
    theirs = ODIN(classifier).predict(pixels)
    assert_allclose(fit_rivals(LAST, *known)["ODIN"](found), theirs, rtol=1e-5)
    assert gather_evidence(pixels, classifier, odin=False).odin is None
