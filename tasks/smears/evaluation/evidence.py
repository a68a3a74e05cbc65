"""Gather the evidence on images that scores need: taps, logits, and the latter for ODIN."""

import numpy as np
import torch
from torch import Tensor

from tasks import bundles, types
from tasks.smears.evaluation.treated import Evidence
from tasks.smears.evaluation.treatments.attacks import Target

BATCH = 32


def gather_evidence(pixels: Tensor, target: Target, *, odin: bool) -> Evidence:
    """Gather the evidence on images (n, 3, S, S) in [0, 1]; n is at least 1."""
    return bundles.join([_of_batch(batch, target, odin) for batch in pixels.split(BATCH)])


def _of_batch(pixels: Tensor, target: Target, odin: bool) -> Evidence:
    classifier, after = target.classifier, None
    with torch.inference_mode(), classifier.computing():
        taps, logits = classifier.features(pixels)
    if odin:
        from pytorch_ood.detector import odin_preprocessing

        with classifier.computing():
            moved = odin_preprocessing(classifier, pixels)
            with torch.inference_mode():
                after = to_numpy(classifier(moved))
    border = torch.ones(pixels.shape[2:], dtype=torch.bool)
    border[2:-2, 2:-2] = False
    return Evidence(
        taps={name: to_numpy(values) for name, values in taps.items()},
        logits=to_numpy(logits),
        border=to_numpy(pixels[:, :, border].mean(dim=(1, 2))),
        odin=after,
    )


def to_numpy(values: Tensor) -> types.Single:
    """Copy a tensor to an array of float32."""
    return np.asarray(values.detach().float().cpu().numpy(), np.float32)


def to_images(pixels: Tensor) -> types.Pixels:
    """Convert pixels (B, 3, S, S) in [0, 1] to images (B, S, S, 3) of 8 bits."""
    return np.asarray((pixels * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy(), np.uint8)
