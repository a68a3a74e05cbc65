"""Untrained networks whose layers all matter, and images for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.network.backbones import DEFAULT_NETWORK, build, network_spec
from tasks.network.classifier import Classifier
from tasks.network.conversion import in_int8, inference
from tasks.network.inference import Inference
from tasks.network.spec import Arithmetic, Computed, NetworkSpec
from tasks.types import Pixels


@dataclass(frozen=True)
class StandIn:
    """An `inference.Device` that does as a test wants."""

    begin: Callable[[Pixels], Callable[[], Computed]]
    batch: int = 32
    threads: int = 2


def classifier(network: str, taps: tuple[str, ...] | None = None, side: int = 64) -> Classifier:
    torch.manual_seed(0)
    made = build(network_spec(network, ("a", "b"), side, taps=taps)).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    last = [m for m in made.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.normal_(last.weight)
    return made


def drawn(spec: NetworkSpec, seed: int = 0) -> Classifier:
    """Build an untrained network in evaluation mode, whose last layer ``fc`` is drawn, too."""
    torch.manual_seed(seed)
    made = build(spec).eval()
    torch.nn.init.normal_(made.backbone.get_submodule("fc").weight)
    return made


def images(count: int, side: int = 64) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def computing_in(arithmetic: Arithmetic, side: int = 64) -> Inference:
    made = classifier(DEFAULT_NETWORK, side=side)
    made.spec = replace(made.spec, arithmetic=arithmetic)
    return inference(made, in_int8(made, images(40, side)) if arithmetic == "int8" else None)
