"""Run the forward pass over images: decoded pixels -> taps and logits.

On a processor OpenVINO runs the network: it keeps maps in the layout of the next convolution, and
fuses activations. On a GPU PyTorch runs it, in float32 as on the processor, so a detector that was
calibrated on one also scores on the other.

A network may be computed in bfloat16 where the processor multiplies in it: twice as fast, and
features move by a tenth of their deviation over cells. So the arithmetic is part of the model, and
whoever lacks it is refused.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from openvino import Core, PartialShape, Type
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from tasks.network.classifier import (
    Arithmetic,
    Classifier,
    NetworkError,
    NetworkSpec,
    Outputs,
    pooled,
    to_pixels,
)
from tasks.network.cutting import LOGITS, Shift, without_shift
from tasks.network.folding import agree, folded

# One thread, so that features do not depend on a worker's number of cores; not pinned to a core, or
# all workers of a machine would be pinned to the same one.
_ON_PROCESSOR = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
}
_HINTS: dict[Arithmetic, str] = {"float32": "f32", "bfloat16": "bf16"}
# The largest difference of OpenVINO from PyTorch, as a share of the largest value: both round, at
# other places.
_TOLERANCES: dict[Arithmetic, float] = {"float32": 1e-3, "bfloat16": 5e-2}

log = logging.getLogger(__name__)


def fastest_arithmetic() -> Arithmetic:
    """Choose bfloat16 where the processor multiplies in it and there is no GPU, else float32."""
    coarse = torch.cpu._is_avx512_bf16_supported() and not torch.cuda.is_available()
    return "bfloat16" if coarse else "float32"


def refuse_other_arithmetic(spec: NetworkSpec) -> None:
    """Raise NetworkError if this machine does not compute in the arithmetic of a network.

    OpenVINO would compute it in float32 and say nothing.
    """
    if spec.arithmetic not in ("float32", fastest_arithmetic()):
        raise NetworkError(
            f"{spec.network} is to be computed in {spec.arithmetic}, and this machine's "
            f"{'GPU' if torch.cuda.is_available() else 'processor'} does not: run it where the "
            "processor has AVX512-BF16 or AMX, or train a model with --arithmetic float32"
        )


@dataclass(frozen=True)
class Inference:
    """A network that is ready for many passes.

    ``run`` maps pixels, uint8 (B, side, side, 3), to taps, each (B, d), and logits (B, C), float32.
    With a GPU they are on it, and may still be in computation. ``batch`` is a good number of images
    per pass, and ``threads`` of reading threads to keep the network busy. ``cutting`` is taken from
    the taps of cells that slidewatch cuts out (`tasks.network.cutting`).
    """

    spec: NetworkSpec
    run: Callable[[NDArray[np.uint8]], Outputs]
    batch: int = 32  # so that data between layers stay in a core's cache
    threads: int = 2
    cutting: Shift | None = None

    def compared(
        self, pixels: NDArray[np.uint8], cut: NDArray[np.bool_]
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Compute taps and logits that may be compared with those of fitted cells.

        Args:
            pixels: (B, side, side, 3).
            cut: (B,) which of them slidewatch has cut out of a photograph.
        """
        taps, logits = self.run(pixels)
        found = without_shift(_arrays({**taps, LOGITS: logits}), self.cutting, cut)
        return found, found.pop(LOGITS)

    @property
    def blocks(self) -> bool:
        """Return whether cells are cut out along blocks: the model was made before 0.4."""
        return self.cutting is None


def inference(classifier: Classifier) -> Inference:
    """Prepare the fastest known way to run a classifier on its device.

    PyTorch runs a network that OpenVINO cannot convert, or computes differently.
    """
    made = folded(classifier)
    if classifier.mean.is_cuda:
        cores = len(os.sched_getaffinity(0)) // torch.cuda.device_count()
        run, threads = _on_gpu(made), max(2, cores)
        return Inference(classifier.spec, run, 512, threads, classifier.cutting)
    network = _FromPixels(made)
    try:
        run = _on_processor(network)
    except Exception as error:  # any error of the converter
        log.warning("OpenVINO does not take %s: %s", classifier.spec.network, error)
        return Inference(classifier.spec, network.run, cutting=classifier.cutting)
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (2, classifier.spec.side, classifier.spec.side, 3), np.uint8)
    if not agree(run(noise), network.run(noise), _TOLERANCES[classifier.spec.arithmetic]):
        log.warning("OpenVINO computes %s otherwise than PyTorch", classifier.spec.network)
        return Inference(classifier.spec, network.run, cutting=classifier.cutting)
    return Inference(classifier.spec, run, cutting=classifier.cutting)


class _FromPixels(nn.Module):
    """Wrap a classifier to take decoded pixels and return a flat tuple."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        taps, logits = self.classifier.features(pixels.permute(0, 3, 1, 2).float() / 255.0)
        return (*(taps[name] for name in self.classifier.spec.taps), logits)

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode(), self.classifier.computing():
            outputs = self(torch.from_numpy(pixels).to(self.classifier.mean.device))
        return self.named(tuple(output.float() for output in outputs))

    def named(self, outputs: tuple[Tensor, ...]) -> Outputs:
        *taps, logits = outputs
        return dict(zip(self.classifier.spec.taps, taps, strict=True)), logits


def _on_processor(network: _FromPixels) -> Callable[[NDArray[np.uint8]], Outputs]:
    spec, side = network.classifier.spec, network.classifier.spec.side
    with torch.inference_mode():
        example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
        # A function: of a module, PyTorch would first make one of TorchScript for each part.
        traced = torch.jit.trace(lambda pixels: network(pixels), example, check_trace=False)
        # Not `openvino.convert_model`, which sends telemetry. It has to live until the conversion.
        decoder = TorchScriptPythonDecoder(traced)
    frontend = FrontEndManager().load_by_framework("pytorch")
    graph = frontend.convert(frontend.load(decoder))
    source = graph.inputs[0].get_node()
    source.set_element_type(Type.u8)
    source.set_partial_shape(PartialShape([-1, side, side, 3]))
    graph.validate_nodes_and_infer_types()
    precision = {"INFERENCE_PRECISION_HINT": _HINTS[spec.arithmetic]}
    compiled = Core().compile_model(graph, "CPU", _ON_PROCESSOR | precision)
    of_thread = threading.local()  # a request belongs to one thread at a time

    def run(pixels: NDArray[np.uint8]) -> Outputs:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        found = of_thread.request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        return network.named(
            tuple(torch.from_numpy(np.array(found[k])) for k in range(len(graph.outputs)))
        )

    return run


def _on_gpu(classifier: Classifier) -> Callable[[NDArray[np.uint8]], Outputs]:
    # TF32 keeps ten bits of a float32: early taps, with their small variance, would change by more
    # than the detector's scale.
    torch.backends.cudnn.allow_tf32 = False
    network = _FromPixels(classifier)

    def run(pixels: NDArray[np.uint8]) -> Outputs:
        waiting = torch.from_numpy(pixels).pin_memory()
        with torch.inference_mode():
            moved = waiting.to(classifier.mean.device, non_blocking=True)
            return network.named(network(moved))

    return run


def outputs_of(
    network: Inference, pixels: NDArray[np.uint8], rows: NDArray[np.intp]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Compute taps, each (k, d), and logits (k, C) of some rows of images (n, side, side, 3)."""
    starts = range(0, len(rows), network.batch)
    parts = [network.run(pixels[rows[start : start + network.batch]]) for start in starts]
    taps = {name: torch.cat([found[name] for found, _ in parts]) for name in network.spec.taps}
    return _arrays(taps), torch.cat([logits for _, logits in parts]).cpu().numpy()


def taps_and_maps(
    classifier: Classifier, pixels: NDArray[np.uint8]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Compute pooled taps (n, d) of images (n, side, side, 3), and maps (n, d, h, w), in one pass.

    A tap with one vector per image has no map.
    """
    with torch.inference_mode(), classifier.computing():
        outputs, _ = classifier.maps(to_pixels(pixels).to(classifier.mean.device))
        taps = {name: pooled(output) for name, output in outputs.items()}
    return _arrays(taps), _arrays({name: o for name, o in outputs.items() if o.ndim == 4})


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: values.float().cpu().numpy() for name, values in tensors.items()}
