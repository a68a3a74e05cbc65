"""Gather the evidence on images, and score it by rival detectors: higher is more abnormal.

The rivals are those of pytorch-ood (Kirchheim et al. 2022), with the settings of their authors.
Rivals that need a covariance are left out unless fitted images outnumber features.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks import bundles
from tasks.network.classifier import Classifier, computed
from tasks.smears.evaluation.scored import ImageEvidence, Rivals
from tasks.types import Float, Integers, Single

BATCH = 32
SAMPLE = 20_000  # fitted images that rivals know, at most
NEIGHBOURS = 50
ODIN_TEMPERATURE = 1000.0


def gather_evidence(pixels: Tensor, classifier: Classifier, *, odin: bool) -> ImageEvidence:
    """Gather the evidence on images (n, 3, S, S) in [0, 1]; n is at least 1."""
    return bundles.join([_of_batch(batch, classifier, odin) for batch in pixels.split(BATCH)])


def _of_batch(pixels: Tensor, classifier: Classifier, odin: bool) -> ImageEvidence:
    after = None
    with classifier.computing():
        with torch.inference_mode():
            taps, logits = computed(classifier.features(pixels))
        if odin:
            from pytorch_ood.detector import odin_preprocessing

            moved = odin_preprocessing(classifier, pixels)
            with torch.inference_mode():
                _, after = computed(({}, classifier(moved)))
    return ImageEvidence(taps, logits, after)


def logit_rivals() -> Rivals:
    """Make the rivals that need only logits, and so neither fitted images nor gradients."""
    from pytorch_ood.detector import EnergyBased, MaxSoftmax

    def by_logits(detector: Any) -> Callable[[ImageEvidence], Float]:
        return lambda evidence: _numbers(detector.predict_logits(_wide(evidence.logits)))

    return {"maximum softmax": by_logits(MaxSoftmax(None)), "energy": by_logits(EnergyBased(None))}


def fit_rivals(
    last: str, features: Single, labels: Integers, weight: Tensor, bias: Tensor
) -> Rivals:
    """Fit rivals to features (n, d) of the tap ``last`` with labels (n,).

    ``weight`` (C, d) and ``bias`` (C,) are of the layer of the logits.
    """
    from pytorch_ood.detector import KNN, RMD, Mahalanobis, MaxSoftmax, ViM

    known = torch.from_numpy(np.asarray(features, np.float64))
    classes = torch.from_numpy(np.unique(labels, return_inverse=True)[1])

    def by_features(detector: Any) -> Callable[[ImageEvidence], Float]:
        detector.fit_features(known, classes)
        return lambda evidence: _numbers(detector.predict_features(_wide(evidence.taps[last])))

    def odin(evidence: ImageEvidence) -> Float:
        assert evidence.odin is not None
        return _numbers(MaxSoftmax.score(_wide(evidence.odin), ODIN_TEMPERATURE))

    neighbours = KNN(None, k=min(NEIGHBOURS, len(known)))
    neighbours.knn.n_jobs = None  # a worker is one process of several
    wide = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # covariances are allocated in it
    try:
        rivals: Rivals = {
            **logit_rivals(),
            "ODIN": odin,
            "k nearest neighbours": by_features(neighbours),
        }
        if len(known) > known.shape[1]:
            width = known.shape[1]
            # Principal directions as Wang et al. (2022) choose their number.
            principal = 1000 if width >= 2048 else 512 if width >= 768 else width // 2
            vim = ViM(None, principal, weight.cpu(), bias.cpu())
            rivals["mahalanobis, last layer"] = by_features(Mahalanobis(None))
            rivals["relative mahalanobis"] = by_features(RMD(None))
            rivals["ViM"] = by_features(vim)
        return rivals
    finally:
        torch.set_default_dtype(wide)


def _wide(values: Single) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))


def _numbers(scores: Tensor) -> Float:
    return np.asarray(scores.numpy(), np.float64)
