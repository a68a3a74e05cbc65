"""Convert a classifier to OpenVINO's graph, which a model's file keeps."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from tasks.network.classifier import Classifier, computed
from tasks.network.cutting import LOGITS
from tasks.network.gpu import by_pytorch, folded, normalised_convolutions
from tasks.network.inference import Inference, choose
from tasks.network.processor import (
    DESCRIPTION,
    EXPECTED,
    NORM,
    TAP,
    WEIGHTS,
    Graph,
    by_openvino,
    noise,
    openvino,
)
from tasks.types import Arrays, nested

_BACKBONE = "__module.classifier.backbone."  # before the names of its modules in a graph

log = logging.getLogger(__name__)


def inference(classifier: Classifier) -> Inference:
    """Prepare a classifier for many passes."""
    spec = classifier.spec
    device = choose(
        lambda: by_openvino(spec, lambda: graph_of(classifier)), lambda: by_pytorch(classifier)
    )
    return Inference(spec, device, classifier.cutting)


def graph_arrays(classifier: Classifier) -> Arrays:
    """Make the arrays of a classifier's graph for a model's file; none if there is no graph."""
    try:
        graph = graph_of(classifier)
    except Exception as error:  # any error of the converter
        log.warning("OpenVINO does not take %s: %s", classifier.spec.network, error)
        return {}
    taps, logits = graph.expected
    return _serialised(graph.network) | nested(EXPECTED, nested(TAP, taps) | {LOGITS: logits})


def graph_of(classifier: Classifier) -> Graph:
    """Convert a classifier for OpenVINO, and name what each folded batch-norm gives."""
    # Below the imports of OpenVINO without its telemetry.
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    spec, network = classifier.spec, _FromPixels(folded(classifier).cpu()).eval()
    pixels = torch.from_numpy(noise(spec))
    with torch.inference_mode():
        traced = torch.jit.trace(network, pixels, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)  # it has to live until the conversion
        with network.classifier.computing():
            *taps, logits = network(pixels)
    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    graph = frontend.convert(frontend.load(decoder))
    source = graph.inputs[0].get_node()
    source.set_element_type(openvino.Type.u8)
    source.set_partial_shape(openvino.PartialShape([-1, *pixels.shape[1:]]))
    graph.validate_nodes_and_infer_types()
    names = [*(f"{TAP}/{name}" for name in spec.taps), LOGITS]
    for output, name in zip(graph.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    # The last node of a convolution gives what the batch-norm gave that was folded into it.
    last = {node.friendly_name.partition("/")[0]: node for node in graph.get_ordered_ops()}
    for convolution, norm in normalised_convolutions(classifier):
        if not isinstance(network.classifier.backbone.get_submodule(norm), nn.BatchNorm2d):
            last[_BACKBONE + convolution].output(0).get_tensor().set_names({f"{NORM}/{norm}"})
    return Graph(graph, computed((dict(zip(spec.taps, taps, strict=True)), logits)))


class _FromPixels(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        taps, logits = self.classifier.features(pixels.permute(0, 3, 1, 2).float() / 255.0)
        return (*(taps[name] for name in self.classifier.spec.taps), logits)


def _serialised(graph: openvino.Model) -> Arrays:
    # The converter numbers graphs and nodes through all conversions of a process.
    graph.set_friendly_name("network")
    for number, node in enumerate(graph.get_ordered_ops()):
        node.set_friendly_name(str(number))
    with TemporaryDirectory(prefix="slidewatch-") as folder:
        path = Path(folder) / "graph.xml"
        openvino.save_model(graph, path, compress_to_fp16=False)
        files = {DESCRIPTION: path, WEIGHTS: path.with_suffix(".bin")}
        return {name: np.fromfile(file, np.uint8) for name, file in files.items()}
