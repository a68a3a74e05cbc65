"""Gather the evidence on images that scores need: taps, logits, and the latter for ODIN."""

import numpy as np
import torch
from torch import Tensor

from tasks import bundles, types
from tasks.network.classifier import Classifier
from tasks.smears.evaluation.treated import ImageEvidence

BATCH = 32


def gather_evidence(pixels: Tensor, classifier: Classifier, *, odin: bool) -> ImageEvidence:
    """Gather the evidence on images (n, 3, S, S) in [0, 1]; n is at least 1."""
    return bundles.join([_of_batch(batch, classifier, odin) for batch in pixels.split(BATCH)])


def _of_batch(pixels: Tensor, classifier: Classifier, odin: bool) -> ImageEvidence:
    after = None
    with classifier.computing():
        with torch.inference_mode():
            taps, logits = classifier.features(pixels)
        if odin:
            from pytorch_ood.detector import odin_preprocessing

            moved = odin_preprocessing(classifier, pixels)
            with torch.inference_mode():
                after = _to_numpy(classifier(moved))
    return ImageEvidence(
        taps={name: _to_numpy(values) for name, values in taps.items()},
        logits=_to_numpy(logits),
        odin=after,
    )


def _to_numpy(values: Tensor) -> types.Single:
    return np.asarray(values.detach().float().cpu().numpy(), np.float32)
