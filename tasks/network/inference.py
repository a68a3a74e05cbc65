"""Run the forward pass over images: decoded pixels -> taps and logits.

OpenVINO runs the network on a processor (`tasks.network.processor`), and PyTorch on a GPU
(`tasks.network.gpu`), both in float32, so a detector that was calibrated on one also scores on the
other.

A network may be computed in int8, by any processor, or in bfloat16 where it multiplies in that:
both are about twice as fast, and features move by a tenth of their deviation over cells. So the
arithmetic is part of the model. Whoever lacks bfloat16 is refused; integers give the same bytes on
all processors with AVX2, and are not computed on a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from tasks.network.cutting import LOGITS, Shift, without_shift
from tasks.network.processor import core, seconds_of
from tasks.network.ruler import Ruler
from tasks.network.spec import Arithmetic, Computed, NetworkError, NetworkSpec
from tasks.types import Index, Mask, Pixels

# Linux shows the GPUs that PyTorch can use here: NVIDIA's, those of Windows below it, and AMD's.
_GPUS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@cache
def has_gpu() -> bool:
    """Return whether PyTorch can use a GPU; it is imported only where there may be one."""
    if not any(Path(device).exists() for device in _GPUS):
        return False
    import torch

    return bool(torch.cuda.is_available())


def has_bfloat16() -> bool:
    """Return whether OpenVINO multiplies in bfloat16 here, and there is no GPU."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") and not has_gpu()


def fastest_arithmetic() -> Arithmetic:
    """Choose the fastest arithmetic of this machine: which it is depends on the processor."""
    able: dict[Arithmetic, bool] = {
        "float32": True, "int8": not has_gpu(), "bfloat16": has_bfloat16()
    }  # fmt: skip
    return min((each for each, can in able.items() if can), key=seconds_of)


def refuse_other_arithmetic(spec: NetworkSpec) -> None:
    """Raise NetworkError if this machine does not compute in the arithmetic of a network."""
    if spec.arithmetic == "bfloat16" and not has_bfloat16():
        raise NetworkError(
            f"{spec.network} is to be computed in {spec.arithmetic}, and this machine's "
            f"{'GPU' if has_gpu() else 'processor'} does not: run it where the "
            "processor has AVX512-BF16 or AMX, or train a model with --arithmetic float32"
        )


class Device(Protocol):
    """A network that is compiled for a device, ready for many passes by any thread."""

    @property
    def batch(self) -> int:
        """Return a good number of images per pass."""

    @property
    def threads(self) -> int:
        """Return the number of reading threads that keep the device busy."""

    def begin(self, pixels: Pixels) -> Callable[[], Computed]:
        """Begin a pass over images (B, side, side, 3); the returned function waits for its outputs.

        The outputs are the taps by name, each float32 (B, d), and the logits, float32 (B, C). They
        belong to the caller: later passes leave them as they are. An image's outputs do not depend
        on the other images of its pass beyond rounding.
        """


@dataclass(frozen=True)
class Inference:
    """A network on a device; ``cutting`` is taken from the taps of cells cut out by slidewatch.

    The ``ruler`` of a laboratory changes the logits.
    """

    spec: NetworkSpec
    device: Device
    cutting: Shift = field(default_factory=dict)
    ruler: Ruler = field(default_factory=Ruler)

    def run(self, pixels: Pixels) -> Computed:
        """Compute taps, each (B, d), and logits (B, C) of pixels (B, side, side, 3)."""
        return self.device.begin(pixels)()

    def compared(self, pixels: Pixels, cut: Mask) -> Computed:
        """Compute taps and logits as of fitted cells; ``cut`` (n,) marks cells cut out here.

        There may be any number of cells, n >= 1: memory is that of one pass.
        """
        return self.as_fitted(outputs_of(self, pixels, np.arange(len(pixels))), cut)

    def as_fitted(self, computed: Computed, cut: Mask) -> Computed:
        """Make taps (n, d) and logits (n, C) comparable with those of fitted cells."""
        taps, logits = computed
        outputs = without_shift({**taps, LOGITS: logits}, self.cutting, cut)
        return outputs, self.ruler.of(outputs.pop(LOGITS))


def choose(
    processor: Callable[[], Device | None] | None, gpu: Callable[[], Device] | None
) -> Device:
    """Choose what runs a network, a GPU if there is one; NetworkError if nothing does.

    ``processor`` compiles the network's graph, if it has one, and returns None if OpenVINO does not
    take it; ``gpu`` prepares the network by PyTorch, on a GPU or not, if it has weights.
    """
    device = processor() if processor and not (gpu and has_gpu()) else None
    device = gpu() if device is None and gpu else device
    if device is None:
        raise NetworkError(
            "OpenVINO does not run this network here, and it has no weights for PyTorch: use a "
            "model that slidewatch train has made"
        )
    return device


def outputs_of(network: Inference, pixels: Pixels, rows: Index) -> Computed:
    """Compute taps, each (k, d), and logits (k, C) of some rows of images (n, side, side, 3)."""
    starts = range(0, len(rows), network.device.batch)
    parts = [network.run(pixels[rows[start : start + network.device.batch]]) for start in starts]
    taps = {
        name: np.concatenate([of_part[name] for of_part, _ in parts]) for name in network.spec.taps
    }
    return taps, np.concatenate([logits for _, logits in parts])
