"""What a tap gives before it is pooled."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.network import PENULTIMATE, TAPPING, Classifier
from tasks.training import to_pixels


def taps_and_maps(
    classifier: Classifier, pixels: NDArray[np.uint8]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Pooled taps (n, d) of images (n, side, side, 3), and their maps (n, d, h, w) in one pass.

    A tap that gives one vector an image has no map.
    """
    with TAPPING, torch.inference_mode(), _maps(classifier) as maps:
        taps, _ = classifier.features(to_pixels(pixels).to(classifier.mean.device))
    return _arrays(taps), _arrays(maps)


@contextmanager
def _maps(classifier: Classifier) -> Iterator[dict[str, Tensor]]:
    """Collect the taps' outputs that are maps."""
    found: dict[str, Tensor] = {}

    def keep_as(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if output.ndim == 4:
                found[name] = output

        return hook

    hooks = [
        classifier.backbone.get_submodule(name).register_forward_hook(keep_as(name))
        for name in classifier.spec.taps
        if name != PENULTIMATE
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: values.float().cpu().numpy() for name, values in tensors.items()}
