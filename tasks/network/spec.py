"""Describe a network, and what it computes of images, without PyTorch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tasks.types import Single

PENULTIMATE = "penultimate"  # a tap of every network: the input of its last layer

# The numbers that a network multiplies: bfloat16 has the range of float32, and 8 of its 24 bits;
# int8 are integers, in steps that example cells have set.
Arithmetic = Literal["float32", "bfloat16", "int8"]
# Taps, each (B, d), and logits (B, C).
Computed = tuple[dict[str, Single], Single]


class NetworkError(Exception):
    """A network, tap or weights do not exist; the message lists the valid choices."""


@dataclass(frozen=True)
class NetworkSpec:
    """The description that rebuilds a network, without its weights.

    ``network`` is ``efficientnet_lite0``, ``timm:<name>`` or ``torchvision:<name>``. ``taps`` are
    names of modules whose output maps, or tokens, are averaged over height and width, or
    `PENULTIMATE`; modules in ``frozen``, and those inside them, keep their initial weights.
    Distances are measured at ``distance_taps``, or at all taps if none is named. ``side`` is that
    of the square input in pixels; ``mean`` and ``std`` normalise pixels in [0, 1].
    ``arithmetic`` is that of every pass but those of training.
    """

    network: str
    classes: tuple[str, ...]
    taps: tuple[str, ...]
    frozen: tuple[str, ...]
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    distance_taps: tuple[str, ...]
    arithmetic: Arithmetic

    def as_dict(self) -> dict[str, Any]:
        """Convert to the plain data of a model's card."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NetworkSpec":
        """Read a spec from `as_dict`."""
        fields: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**fields)


def is_own(network: str) -> bool:
    """Return whether a network is a user's code, ``module:function``.

    >>> is_own("timm:resnet18"), is_own("lab.networks:small")
    (False, True)
    """
    return network.rpartition(":")[0] not in {"", "timm", "torchvision"}


def agree(a: Computed, b: Computed, tolerance: float = 1e-3) -> bool:
    """Return whether taps and logits agree to a share of the largest value of each."""
    (taps_a, logits_a), (taps_b, logits_b) = a, b
    pairs = [(logits_a, logits_b), *((taps_a[name], taps_b[name]) for name in taps_a)]
    return all(
        np.allclose(x, y, rtol=tolerance, atol=tolerance * float(np.abs(x).max())) for x, y in pairs
    )
