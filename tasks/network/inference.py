"""Run the forward pass over images: decoded pixels -> taps and logits.

On a processor OpenVINO runs the network: it keeps maps in the layout of the next convolution, and
fuses activations. A model keeps its network as OpenVINO's graph, so that a worker need not import
PyTorch, which takes longer than all else that it does before its first image. On a GPU PyTorch runs
the network (`tasks.network.conversion`), in float32 as on the processor, so a detector that was
calibrated on one also scores on the other.

A network may be computed in bfloat16 where the processor multiplies in it: with AMX it is twice as
fast, and features move by a tenth of their deviation over cells. So the arithmetic is part of the
model, and whoever lacks it is refused.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from openvino import Core, Model

from tasks.network.cutting import LOGITS, Shift, without_shift
from tasks.network.spec import Arithmetic, Computed, NetworkError, NetworkSpec, agree
from tasks.types import Arrays, Index, Mask, Pixels, below

DESCRIPTION, WEIGHTS, EXPECTED = "description", "weights", "expected"  # the arrays of a graph
TAP = "tap"  # a graph names its outputs `tap/<tap>` and `LOGITS`
NORM = "norm"  # and `norm/<batch-norm>` the value that each folded batch-norm gives

# One thread, so that features do not depend on a worker's number of cores; not pinned to a core, or
# all workers of a machine would be pinned to the same one.
_ON_PROCESSOR = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
_HINTS: dict[Arithmetic, str] = {"float32": "f32", "bfloat16": "bf16"}
# The largest difference of OpenVINO from PyTorch, as a share of the largest value: both round, at
# other places.
_TOLERANCES: dict[Arithmetic, float] = {"float32": 1e-3, "bfloat16": 5e-2}
_PROCESSOR = Path("/proc/cpuinfo")  # where Linux lists its abilities
# Linux shows the GPUs that PyTorch can use here: NVIDIA's, those of Windows below it, and AMD's.
_GPUS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")

Passes = Callable[[Pixels], Arrays]  # computes the outputs of a graph by name

log = logging.getLogger(__name__)


@cache
def has_gpu() -> bool:
    """Return whether PyTorch can use a GPU; it is imported only where there may be one."""
    if not any(Path(device).exists() for device in _GPUS):
        return False
    import torch

    return bool(torch.cuda.is_available())


@cache
def _openvino() -> Core:
    return Core()


def has_bfloat16() -> bool:
    """Return whether OpenVINO multiplies in bfloat16 here, and there is no GPU."""
    return "BF16" in _openvino().get_property("CPU", "OPTIMIZATION_CAPABILITIES") and not has_gpu()


def fastest_arithmetic() -> Arithmetic:
    """Choose bfloat16 where the processor has AMX, else float32.

    With AVX512-BF16 alone a pass in bfloat16 took one and a half times as long as in float32.
    """
    has_amx = _PROCESSOR.exists() and "amx_bf16" in _PROCESSOR.read_text()
    return "bfloat16" if has_amx and has_bfloat16() else "float32"


def refuse_other_arithmetic(spec: NetworkSpec) -> None:
    """Raise NetworkError if this machine does not compute in the arithmetic of a network.

    OpenVINO would compute it in float32 and say nothing.
    """
    if spec.arithmetic == "bfloat16" and not has_bfloat16():
        raise NetworkError(
            f"{spec.network} is to be computed in {spec.arithmetic}, and this machine's "
            f"{'GPU' if has_gpu() else 'processor'} does not: run it where the "
            "processor has AVX512-BF16 or AMX, or train a model with --arithmetic float32"
        )


@dataclass(frozen=True)
class Inference:
    """A network that is ready for many passes.

    ``begin`` maps pixels, uint8 (B, side, side, 3), to a function that waits for their taps, each
    (B, d), and logits (B, C). ``batch`` is a good number of images per pass, and ``threads`` of
    reading threads to keep the network busy. ``cutting`` is taken from the taps of cells that
    slidewatch cuts out (`tasks.network.cutting`).
    """

    spec: NetworkSpec
    begin: Callable[[Pixels], Callable[[], Computed]]
    batch: int = 32  # so that data between layers stay in a core's cache
    threads: int = 2
    cutting: Shift = field(default_factory=dict)

    def run(self, pixels: Pixels) -> Computed:
        """Compute taps, each (B, d), and logits (B, C) of pixels (B, side, side, 3)."""
        return self.begin(pixels)()

    def compared(self, pixels: Pixels, cut: Mask) -> Computed:
        """Compute taps and logits that may be compared with those of fitted cells.

        ``cut`` (B,) marks the pixels that slidewatch has cut out of a photograph.
        """
        taps, logits = self.run(pixels)
        outputs = without_shift({**taps, LOGITS: logits}, self.cutting, cut)
        return outputs, outputs.pop(LOGITS)


@dataclass(frozen=True)
class Graph:
    """A network for OpenVINO, and what PyTorch computes of `noise`."""

    network: Model
    expected: Computed

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Graph":
        """Read a graph from the arrays of `tasks.network.conversion.graph_arrays`."""
        description, weights = (arrays[name].tobytes() for name in (DESCRIPTION, WEIGHTS))
        expected = below(EXPECTED, arrays)
        network = _openvino().read_model(description, weights)
        return cls(network, (below(TAP, expected), expected[LOGITS]))


def by_openvino(spec: NetworkSpec, read: Callable[[], Graph], cutting: Shift) -> Inference | None:
    """Prepare to run a graph on the processor.

    It is None, and the log says so, if OpenVINO does not take the graph here, or computes otherwise
    than PyTorch did where it was made.
    """
    try:
        graph = read()
        network = of_passes(spec, passes(spec, graph.network), cutting)
    except Exception as error:  # any error of the converter and the compiler
        log.warning("OpenVINO does not take %s: %s", spec.network, error)
        return None
    if not agree(network.run(noise(spec)), graph.expected, _TOLERANCES[spec.arithmetic]):
        log.warning("OpenVINO computes %s otherwise than PyTorch", spec.network)
        return None
    return network


def of_passes(spec: NetworkSpec, run: Passes, cutting: Shift) -> Inference:
    """Make an inference of the `passes` of a graph."""

    def begin(pixels: Pixels) -> Callable[[], Computed]:
        outputs = run(pixels)
        computed = below(TAP, outputs), outputs[LOGITS]
        return lambda: computed

    return Inference(spec, begin, cutting=cutting)


def noise(spec: NetworkSpec) -> Pixels:
    """Make the images (2, side, side, 3) by which two ways to compute a network are compared."""
    return np.random.default_rng(0).integers(0, 256, (2, spec.side, spec.side, 3), np.uint8)


def passes(spec: NetworkSpec, network: Model) -> Passes:
    """Compile a graph, and return what computes its outputs by name."""
    compiled = _openvino().compile_model(
        network, "CPU", _ON_PROCESSOR | {"INFERENCE_PRECISION_HINT": _HINTS[spec.arithmetic]}
    )
    of_thread = threading.local()  # a request belongs to one thread at a time

    def run(pixels: Pixels) -> Arrays:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        outputs = of_thread.request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        # Copied, because the next pass writes there.
        return {output.any_name: np.array(outputs[output]) for output in compiled.outputs}

    return run


def outputs_of(network: Inference, pixels: Pixels, rows: Index) -> Computed:
    """Compute taps, each (k, d), and logits (k, C) of some rows of images (n, side, side, 3)."""
    starts = range(0, len(rows), network.batch)
    parts = [network.run(pixels[rows[start : start + network.batch]]) for start in starts]
    taps = {
        name: np.concatenate([of_part[name] for of_part, _ in parts]) for name in network.spec.taps
    }
    return taps, np.concatenate([logits for _, logits in parts])
