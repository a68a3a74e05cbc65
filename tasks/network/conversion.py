"""Make a classifier ready for many passes: as OpenVINO's graph, or by PyTorch."""

import copy
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from openvino import Model, PartialShape, Type, save_model
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tasks.network import spec
from tasks.network.classifier import Classifier, Outputs, computed
from tasks.network.cutting import LOGITS
from tasks.network.inference import (
    DESCRIPTION,
    EXPECTED,
    NORM,
    TAP,
    WEIGHTS,
    Graph,
    Inference,
    by_openvino,
    noise,
)
from tasks.types import Arrays, Pixels, nested

log = logging.getLogger(__name__)


def inference(classifier: Classifier) -> Inference:
    """Prepare the fastest known way to run a classifier on its device.

    PyTorch runs a network that OpenVINO cannot convert, or computes differently.
    """
    if classifier.mean.is_cuda:
        cores = len(os.sched_getaffinity(0)) // torch.cuda.device_count()
        return _by_pytorch(folded(classifier), batch=512, threads=max(2, cores))
    by_graph = by_openvino(classifier.spec, lambda: graph_of(classifier), classifier.cutting)
    return by_graph or _by_pytorch(folded(classifier))


def graph_of(classifier: Classifier) -> Graph:
    """Convert a classifier for OpenVINO, with batch-norms folded into convolutions."""
    made = folded(classifier).cpu()
    norms = {
        convolution: norm
        for convolution, norm in _normalised_convolutions(classifier)
        if not isinstance(made.backbone.get_submodule(norm), nn.BatchNorm2d)
    }
    return Graph(_converted(_FromPixels(made), norms), _FromPixels(made).run(noise(made.spec)))


def graph_arrays(classifier: Classifier) -> Arrays:
    """Make the arrays of a classifier's graph that a model's file keeps; none if there is no graph.

    Equal classifiers have equal arrays.
    """
    try:
        graph = graph_of(classifier)
    except Exception as error:  # any error of the converter
        log.warning("OpenVINO does not take %s: %s", classifier.spec.network, error)
        return {}
    taps, logits = graph.expected
    return _serialised(graph.network) | nested(EXPECTED, nested(TAP, taps) | {LOGITS: logits})


class _FromPixels(nn.Module):
    """Wrap a classifier to take decoded pixels and return taps and logits as a flat tuple."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        taps, logits = self.classifier.features(pixels.permute(0, 3, 1, 2).float() / 255.0)
        return (*(taps[name] for name in self.classifier.spec.taps), logits)

    def run(self, pixels: Pixels) -> spec.Computed:
        """Compute taps, each (B, d), and logits (B, C)."""
        with torch.inference_mode(), self.classifier.computing():
            *taps, logits = self(torch.from_numpy(pixels))
        return computed((dict(zip(self.classifier.spec.taps, taps, strict=True)), logits))


def _converted(network: _FromPixels, norms: Mapping[str, str]) -> Model:
    """Trace and convert a network, and name what each folded batch-norm gives.

    ``norms`` maps a convolution to the batch-norm that was folded into it.
    """
    side, inner = network.classifier.spec.side, dict[str, Tensor]()

    def traced_with_inner(pixels: Tensor) -> tuple[Tensor, ...]:
        return (*network(pixels), *inner.values())

    def hook(_module: nn.Module, _inputs: Any, output: Tensor, norm: str) -> None:
        inner[norm] = output.clone()  # what follows may change it in place

    hooks = [
        network.classifier.backbone.get_submodule(name).register_forward_hook(
            partial(hook, norm=norm)
        )
        for name, norm in norms.items()
    ]
    with torch.inference_mode():
        example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
        # A function: of a module, PyTorch would first make one of TorchScript for each part.
        traced = torch.jit.trace(traced_with_inner, example, check_trace=False)
        # Not `openvino.convert_model`, which sends telemetry. It has to live until the conversion.
        decoder = TorchScriptPythonDecoder(traced)
    for each in hooks:
        each.remove()
    frontend = FrontEndManager().load_by_framework("pytorch")
    graph = frontend.convert(frontend.load(decoder))
    source = graph.inputs[0].get_node()
    source.set_element_type(Type.u8)
    source.set_partial_shape(PartialShape([-1, side, side, 3]))
    graph.validate_nodes_and_infer_types()
    names = [*(f"{TAP}/{name}" for name in network.classifier.spec.taps), LOGITS]
    results = graph.get_results()
    for output, name in zip(graph.outputs, names, strict=False):
        output.get_tensor().set_names({name})
    for result, name in zip(results[len(names) :], inner, strict=True):
        result.input_value(0).get_tensor().set_names({f"{NORM}/{name}"})
        graph.remove_result(result)
    return graph


def _serialised(graph: Model) -> Arrays:
    # The converter numbers graphs and nodes through all conversions of a process.
    graph.set_friendly_name("network")
    for number, node in enumerate(graph.get_ordered_ops()):
        node.set_friendly_name(str(number))
    with TemporaryDirectory(prefix="slidewatch-") as folder:
        path = Path(folder) / "graph.xml"
        save_model(graph, path, compress_to_fp16=False)
        files = {DESCRIPTION: path, WEIGHTS: path.with_suffix(".bin")}
        return {name: np.fromfile(file, np.uint8) for name, file in files.items()}


def _by_pytorch(classifier: Classifier, **size: int) -> Inference:
    # TF32 keeps ten bits of a float32: early taps, with their small variance, would change by more
    # than the detector's scale.
    torch.backends.cudnn.allow_tf32 = False
    device = classifier.mean.device

    def on_device(pixels: Pixels) -> Tensor:
        waiting = torch.from_numpy(pixels)
        if device.type == "cuda":
            waiting = waiting.pin_memory().to(device, non_blocking=True)
        return waiting.permute(0, 3, 1, 2).float() / 255.0

    def begin(pixels: Pixels) -> Callable[[], spec.Computed]:
        with torch.inference_mode(), classifier.computing():
            outputs: Outputs = classifier.features(on_device(pixels))
        return lambda: computed(outputs)

    return Inference(classifier.spec, begin, cutting=classifier.cutting, **size)


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
        same = spec.agree(computed(classifier.features(pixels)), computed(made.features(pixels)))
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
