"""Run a network by PyTorch: on a GPU, or on a processor what OpenVINO does not take.

On a GPU too the network is computed in float32, so a detector that was calibrated on a processor
also scores there.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tasks.network.classifier import Classifier, Outputs, computed
from tasks.network.spec import Computed, agree
from tasks.types import Pixels


@dataclass(frozen=True)
class PyTorch:
    """A folded classifier on its device, an `inference.Device`; a GPU computes meanwhile."""

    classifier: Classifier
    batch: int
    threads: int

    def begin(self, pixels: Pixels) -> Callable[[], Computed]:
        """Send images to the device, and queue a pass there."""
        waiting, device = torch.from_numpy(pixels), self.classifier.mean.device
        if device.type == "cuda":
            waiting = waiting.pin_memory()
        with torch.inference_mode(), self.classifier.computing():
            sent = waiting.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255.0
            outputs: Outputs = self.classifier.features(sent)
        return lambda: computed(outputs)


def by_pytorch(classifier: Classifier) -> PyTorch:
    """Prepare a classifier for many passes on its device."""
    # TF32 keeps ten bits of a float32: early taps, with their small variance, would change by more
    # than the detector's scale.
    torch.backends.cudnn.allow_tf32 = False
    if not classifier.mean.is_cuda:
        return PyTorch(folded(classifier), batch=32, threads=2)
    cores = len(os.sched_getaffinity(0)) // torch.cuda.device_count()
    return PyTorch(folded(classifier), batch=512, threads=max(2, cores))


def folded(classifier: Classifier) -> Classifier:
    """Fold each batch-norm of a copy into the convolution before it; the copy computes the same.

    That saves a sixth of the time. A network whose outputs would not agree to rounding, because
    another module also reads a convolution's output, is copied unchanged.
    """
    classifier = classifier.eval()
    made = copy.deepcopy(classifier).requires_grad_(False)
    for name, norm in normalised_convolutions(made):
        before: Any = made.backbone.get_submodule(name)
        after: Any = made.backbone.get_submodule(norm)
        made.backbone.set_submodule(name, fuse_conv_bn_eval(before, after))
        # timm's batch-norms include the activation.
        made.backbone.set_submodule(norm, getattr(after, "act", nn.Identity()))
    made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side, generator = made.spec.side, torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, side, side, generator=generator).to(made.mean.device)
    with torch.inference_mode():
        same = agree(computed(classifier.features(pixels)), computed(made.features(pixels)))
    return made if same else copy.deepcopy(classifier).requires_grad_(False)


def normalised_convolutions(classifier: Classifier) -> list[tuple[str, str]]:
    """List the convolutions that a batch-norm of their width follows, each with its batch-norm."""
    kinds = nn.Conv2d | nn.BatchNorm2d
    parts = [(n, m) for n, m in classifier.backbone.named_modules() if isinstance(m, kinds)]
    return [
        (name, norm)
        for (name, convolution), (norm, after) in pairwise(parts)
        if isinstance(convolution, nn.Conv2d)
        and isinstance(after, nn.BatchNorm2d)
        and convolution.out_channels == after.num_features
        and name not in classifier.spec.taps
    ]
