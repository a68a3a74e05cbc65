"""What a tap gives before it is pooled."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.network import Classifier, pooled
from tasks.training import to_pixels


def taps_and_maps(
    classifier: Classifier, pixels: NDArray[np.uint8]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Pooled taps (n, d) of images (n, side, side, 3), and their maps (n, d, h, w) in one pass.

    A tap that gives one vector an image has no map.
    """
    with torch.inference_mode():
        outputs, _ = classifier.maps(to_pixels(pixels).to(classifier.mean.device))
        taps = {name: pooled(output) for name, output in outputs.items()}
    return _arrays(taps), _arrays({name: o for name, o in outputs.items() if o.ndim == 4})


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: values.float().cpu().numpy() for name, values in tensors.items()}
