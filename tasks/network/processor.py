"""Run a network on the processor, by OpenVINO.

OpenVINO keeps maps in the layout of the next convolution, and fuses batch-norms and activations. A
model keeps its network as OpenVINO's graph, so that a worker need not import PyTorch, which takes
longer than all else that it does before its first image.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from timeit import repeat

import numpy as np

from tasks.network.cutting import LOGITS
from tasks.network.spec import Arithmetic, Computed, NetworkSpec, agree
from tasks.types import Arrays, Pixels, below

# Its telemetry would report each import to its makers, and leave a number of this user in the home
# folder. OpenVINO does without where that is not installed. All import OpenVINO from here.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino as openvino  # noqa: E402

DESCRIPTION, WEIGHTS, EXPECTED = "description", "weights", "expected"  # the arrays of a graph
TAP = "tap"  # a graph names its outputs `tap/<tap>` and `LOGITS`
NORM = "norm"  # and `norm/<batch-norm>` the value that each folded batch-norm gives

# One thread, so that features do not depend on a worker's number of cores; not pinned to a core, or
# all workers of a machine would be pinned to the same one.
_ON_PROCESSOR = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
_HINTS: dict[Arithmetic, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
# The largest difference of OpenVINO from PyTorch, as a share of the largest value: both round, at
# other places. Of integers it is that from OpenVINO where the graph was made.
_TOLERANCES: dict[Arithmetic, float] = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 1e-3}

# While OpenVINO reads or writes its cache, the process's locale is C: of two threads at once, the
# second would take that for what it has to restore, and text would be ASCII from then on.
_COMPILING = threading.Lock()

Passes = Callable[[Pixels], Arrays]  # computes the outputs of a graph by name

log = logging.getLogger(__name__)


@cache
def core() -> openvino.Core:
    """Return the process's entry to OpenVINO."""
    return openvino.Core()


@dataclass(frozen=True)
class Graph:
    """A network for OpenVINO, and what PyTorch, or in int8 OpenVINO, computes of `noise`."""

    network: openvino.Model
    expected: Computed

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Graph":
        """Read a graph from the arrays of `tasks.network.conversion.graph_arrays`."""
        expected = below(EXPECTED, arrays)
        return cls(read_network(arrays), (below(TAP, expected), expected[LOGITS]))


def read_network(arrays: Arrays) -> openvino.Model:
    """Read a network from its description and weights."""
    return core().read_model(*(arrays[name].tobytes() for name in (DESCRIPTION, WEIGHTS)))


@dataclass(frozen=True)
class OpenVino:
    """A compiled graph on one core of the processor; an `inference.Device`."""

    passes: Passes
    batch: int = 32  # so that data between layers stay in a core's cache
    threads: int = 2

    def begin(self, pixels: Pixels) -> Callable[[], Computed]:
        """Compute taps and logits; there is nothing left to wait for."""
        outputs = self.passes(pixels)
        computed = below(TAP, outputs), outputs[LOGITS]
        return lambda: computed


def by_openvino(spec: NetworkSpec, read: Callable[[], Graph], kept: bool) -> OpenVino | None:
    """Compile a graph; None, and the log says so, if OpenVINO refuses it or computes otherwise."""
    try:
        graph = read()
        made = OpenVino(passes(spec, graph.network, kept=kept))
    except Exception as error:  # any error of the converter and the compiler
        log.warning("OpenVINO does not take %s: %s", spec.network, error)
        return None
    if not agree(made.begin(noise(spec))(), graph.expected, _TOLERANCES[spec.arithmetic]):
        log.warning("OpenVINO computes %s otherwise than PyTorch", spec.network)
        return None
    return made


def noise(spec: NetworkSpec) -> Pixels:
    """Make the images (2, side, side, 3) by which two ways to compute a network are compared."""
    return np.random.default_rng(0).integers(0, 256, (2, spec.side, spec.side, 3), np.uint8)


@cache
def seconds_of(arithmetic: Arithmetic) -> float:
    """Time convolutions like those of a network, the fastest of several passes; .2 s in all."""
    from openvino import opset13 as ops

    shape, channels = (32, 112, 12, 12), 112
    given = made = ops.parameter(list(shape), np.float32)
    for width in (672, 112, 672, 112):
        weights = ops.constant(np.full((width, channels, 1, 1), 0.01, np.float32))
        if arithmetic == "int8":
            made = ops.fake_quantize(made, 0.0, 6.0, 0.0, 6.0, 256)
            weights = ops.fake_quantize(weights, -0.01, 0.01, -0.01, 0.01, 255)
        made = ops.relu(ops.convolution(made, weights, [1, 1], [0, 0], [0, 0], [1, 1]))
        channels = width
    options = _ON_PROCESSOR | {"INFERENCE_PRECISION_HINT": _HINTS[arithmetic]}
    compiled = core().compile_model(openvino.Model([made], [given]), "CPU", options)
    request, pixels = compiled.create_infer_request(), np.ones(shape, np.float32)
    return min(repeat(lambda: request.infer([pixels]), number=1, repeat=9))


def passes(spec: NetworkSpec, network: openvino.Model, *, kept: bool = False) -> Passes:
    """Compile a graph, and return what computes its outputs by name.

    A graph that many runs need is ``kept`` in the user's cache, by its digest and the processor's
    abilities: megabytes instead of half a second. OpenVINO finds damage there, and compiles again.
    """
    options = _ON_PROCESSOR | {"INFERENCE_PRECISION_HINT": _HINTS[spec.arithmetic]}
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "slidewatch"
    kept_in = {"CACHE_DIR": str(folder)} if kept else {}
    with _COMPILING:
        try:
            compiled = core().compile_model(network, "CPU", options | kept_in)
        except RuntimeError:  # nobody may write there, or another process is writing the same
            compiled = core().compile_model(network, "CPU", options)
    of_thread = threading.local()  # a request belongs to one thread at a time

    def run(pixels: Pixels) -> Arrays:
        if len(pixels) == 1:  # alone, one of 32 pixels would end the process (integers, AMX)
            return {name: values[:1] for name, values in run(pixels.repeat(2, axis=0)).items()}
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        outputs = of_thread.request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        # Copied, because the next pass writes there.
        return {output.any_name: np.array(outputs[output]) for output in compiled.outputs}

    return run
