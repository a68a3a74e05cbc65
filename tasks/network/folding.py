"""Fold batch-norms into the convolutions before them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tasks.network.classifier import Classifier, computed
from tasks.network.spec import agree


def folded(classifier: Classifier) -> Classifier:
    """Fold every batch-norm of a copy into the convolution before it; the copy computes the same.

    In evaluation mode a batch-norm is a scale and a shift, and saving its pass over the image saves
    a third of the time. Outputs agree to rounding; a network whose outputs would not, because
    another module also reads a convolution's output, is copied unchanged. A tapped convolution is
    not folded. The copy's weights have no gradients.
    """
    classifier = classifier.eval()
    made = copy.deepcopy(classifier).requires_grad_(False)
    for convolution, norm in _normalised_convolutions(made):
        if convolution in made.spec.taps:
            continue
        before: Any = made.backbone.get_submodule(convolution)
        after: Any = made.backbone.get_submodule(norm)
        made.backbone.set_submodule(convolution, fuse_conv_bn_eval(before, after))
        # timm's batch-norms include the activation.
        made.backbone.set_submodule(norm, getattr(after, "act", nn.Identity()))
    made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side, generator = made.spec.side, torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, side, side, generator=generator).to(made.mean.device)
    with torch.inference_mode():
        same = agree(computed(classifier.features(pixels)), computed(made.features(pixels)))
    return made if same else copy.deepcopy(classifier).requires_grad_(False)


def _normalised_convolutions(classifier: Classifier) -> list[tuple[str, str]]:
    """List the convolutions whose output only a batch-norm reads, each with its batch-norm."""
    made: dict[int, tuple[str, Tensor]] = {}  # by the tensor's id; it is held, so ids stay apart
    takers: dict[str, list[str]] = {}
    hooks = []
    for name, module in classifier.backbone.named_modules():

        def remember(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            made[id(output)] = (name, output)

        def take(_module: nn.Module, inputs: Any, name: str = name) -> None:
            for value in inputs:
                if id(value) in made:
                    takers.setdefault(made[id(value)][0], []).append(name)

        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(remember))
        if not any(module.children()) or isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(take))
    side, device = classifier.spec.side, classifier.mean.device
    with torch.inference_mode():
        classifier(torch.zeros(1, 3, side, side, device=device))
    for hook in hooks:
        hook.remove()
    modules = dict(classifier.backbone.named_modules())
    return [
        (convolution, names[0])
        for convolution, names in takers.items()
        if isinstance(modules[names[0]], nn.BatchNorm2d) and len(names) == 1
    ]
