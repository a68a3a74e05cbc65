"""Wrap a network as a classifier with normalisation, and pooled taps after chosen stages."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.network.spec import PENULTIMATE, Computed, NetworkError, NetworkSpec
from tasks.types import Pixels, Single

_TAPPING = Lock()  # a hook at a tap is called for the passes of every thread
Outputs = tuple[dict[str, Tensor], Tensor]  # taps, each (B, d), and logits (B, C)


class Classifier(nn.Module):
    """Compute logits of pixels in [0, 1], and taps."""

    mean: Tensor
    std: Tensor
    cutting: Mapping[str, Single]  # as `tasks.network.inference.Inference` has it

    def __init__(self, spec: NetworkSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.cutting = {}
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        for name, parameter in backbone.named_parameters():
            if _is_below(name, spec.frozen):
                parameter.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits (B, C) of pixels (B, 3, side, side) in [0, 1]."""
        logits: Tensor = self.backbone((pixels - self.mean) / self.std)
        return logits

    def train(self, mode: bool = True) -> "Classifier":
        """Enter training mode, except in frozen stages, whose batch-norms keep their statistics."""
        super().train(mode)
        for name, module in self.backbone.named_modules():
            if name and _is_below(name, self.spec.frozen):
                module.eval()
        return self

    def computing(self) -> AbstractContextManager[None]:
        """Let PyTorch compute in the arithmetic of the spec, as near to OpenVINO as it comes."""
        coarse = self.spec.arithmetic == "bfloat16"
        return torch.autocast(self.mean.device.type, torch.bfloat16, enabled=coarse)

    def features(self, pixels: Tensor) -> Outputs:
        """Compute taps, each (B, d), and logits (B, C), in one pass."""
        with _TAPPING, self._listening() as taps:
            logits = self(pixels)
        return taps, logits

    @contextmanager
    def _listening(self) -> Iterator[dict[str, Tensor]]:
        kept: dict[str, Tensor] = {}
        prefix = int(getattr(self.backbone, "num_prefix_tokens", 1))

        def keep_as(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                kept[name] = pooled(located(output, prefix))

            return hook

        def before_last(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept[PENULTIMATE] = inputs[0]

        hooks = [
            last_linear(self.backbone)[1].register_forward_pre_hook(before_last)
            if name == PENULTIMATE
            else self.backbone.get_submodule(name).register_forward_hook(keep_as(name))
            for name in self.spec.taps
        ]
        try:
            yield kept
        finally:
            for hook in hooks:
                hook.remove()


def located(output: Tensor, prefix: int) -> Tensor:
    """Arrange a transformer's tokens (B, n, d) as a map (B, 2d, h, w); return others unchanged.

    The first half of the channels is the class token, everywhere, and the second the patch's own
    (Oquab et al. 2023). Of the ``prefix`` tokens before the patches', the first is the class token,
    and registers are dropped; with 0, a map has only the patches' channels.
    """
    if output.ndim != 3:
        return output
    patches = output[:, prefix:].transpose(1, 2)
    side = math.isqrt(patches.shape[2])
    grid: Tensor = patches.unflatten(2, (side, patches.shape[2] // side))
    if not prefix:
        return grid
    return torch.cat([output[:, 0, :, None, None].expand_as(grid), grid], dim=1)


def pooled(output: Tensor) -> Tensor:
    """Average a tap's map over locations to features (B, d), or return its vector unchanged."""
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output


def computed(outputs: Outputs) -> Computed:
    """Return taps and logits as arrays, in memory and in float32."""
    taps, logits = outputs
    arrays = {name: values.float().cpu().numpy() for name, values in taps.items()}
    return arrays, logits.float().cpu().numpy()


def with_taps(classifier: Classifier, taps: tuple[str, ...]) -> Classifier:
    """Return the same network with other taps; the weights are shared."""
    made = Classifier(replace(classifier.spec, taps=taps), classifier.backbone)
    return made.to(classifier.mean.device).eval()


def last_layer(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Return weight (C, d) and bias (C,) of the layer of the logits."""
    _, last = last_linear(classifier.backbone)
    return last.weight.detach(), last.bias.detach()


def tap_widths(classifier: Classifier) -> dict[str, int]:
    """Count the features of every tap, in one pass over a black image, in evaluation mode."""
    device, side = classifier.mean.device, classifier.spec.side
    with torch.inference_mode():
        taps, _ = classifier.eval().features(torch.zeros(1, 3, side, side, device=device))
    for name, values in taps.items():
        if values.ndim != 2:
            raise NetworkError(
                f"the output of {name!r} has shape {tuple(values.shape)}; "
                "a tap must give one map or one vector per image"
            )
    return {name: int(values.shape[1]) for name, values in taps.items()}


def last_linear(backbone: nn.Module) -> tuple[str, nn.Linear]:
    """Find the layer of the logits, and its name."""
    linear = [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise NetworkError(f"{type(backbone).__name__} does not end in a linear layer: use another")
    return linear[-1]


def _is_below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def to_pixels(images: Pixels) -> Tensor:
    """Convert images (B, side, side, 3) to a channels-last tensor (B, 3, side, side) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(255.0)
