"""Convert a classifier to OpenVINO's graph, which a model's file keeps."""

import logging
from contextlib import redirect_stdout
from io import StringIO
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
    OpenVino,
    by_openvino,
    noise,
    openvino,
    passes,
    read_network,
)
from tasks.types import Arrays, Pixels, nested

_CONVOLUTIONS, _FIRST = ("Convolution", "GroupConvolution"), 3  # those that stay in float32
_BACKBONE = "__module.classifier.backbone."  # before the names of its modules in a graph

log = logging.getLogger(__name__)


def inference(classifier: Classifier, graph: Graph | None = None) -> Inference:
    """Prepare a classifier for many passes, by its ``graph`` in int8 if it has one."""
    spec = classifier.spec
    device = choose(
        lambda: by_openvino(spec, lambda: graph or graph_of(classifier), kept=False),
        None if graph else lambda: by_pytorch(classifier),
    )
    return Inference(spec, device, classifier.cutting)


def graph_arrays(classifier: Classifier, graph: Graph | None = None) -> Arrays:
    """Make the arrays of a classifier's graph for a model's file; none if there is no graph."""
    try:
        graph = graph or graph_of(classifier)
    except Exception as error:  # any error of the converter
        log.warning("OpenVINO does not take %s: %s", classifier.spec.network, error)
        return {}
    taps, logits = graph.expected
    return _serialised(graph.network) | nested(EXPECTED, nested(TAP, taps) | {LOGITS: logits})


def graph_of(classifier: Classifier) -> Graph:
    """Convert a classifier for OpenVINO, and name what each folded batch-norm gives."""
    # Below the imports of OpenVINO without its telemetry.
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from openvino.passes import ConstantFolding, Manager

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
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(graph)
    names = [*(f"{TAP}/{name}" for name in spec.taps), LOGITS]
    for output, name in zip(graph.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    # The last node of a convolution gives what the batch-norm gave that was folded into it.
    last = {node.friendly_name.partition("/")[0]: node for node in graph.get_ordered_ops()}
    for convolution, norm in normalised_convolutions(classifier):
        if not isinstance(network.classifier.backbone.get_submodule(norm), nn.BatchNorm2d):
            last[_BACKBONE + convolution].output(0).get_tensor().set_names({f"{NORM}/{norm}"})
    return Graph(graph, computed((dict(zip(spec.taps, taps, strict=True)), logits)))


def in_int8(classifier: Classifier, cells: Pixels) -> Graph:
    """Convert a classifier to int8, in steps that suit ``cells`` (n, side, side, 3).

    Weights have 7 bits: no sum overflows, on any processor, so all compute the same. No value of
    these cells is clipped, as it would be by means: parasites of a tuned network lost 1 in log-odds
    so. The first layers stay in float32: each error there moves all taps, and they gain little.
    """
    import nncf  # trainings alone need it
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    spec, plain = classifier.spec, graph_of(classifier).network
    layers = [node for node in plain.get_ordered_ops() if node.get_type_name() in _CONVOLUTIONS]
    exact = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE,
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    )
    with redirect_stdout(StringIO()):  # its bars
        network = nncf.quantize(
            plain,
            nncf.Dataset([cells[row : row + 1] for row in range(len(cells))]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(cells),
            ignored_scope=nncf.IgnoredScope([node.friendly_name for node in layers[:_FIRST]]),
            advanced_parameters=exact,
        )
    kept = read_network(_serialised(network))  # compiled as any worker will, to the last bit
    return Graph(kept, OpenVino(passes(spec, kept)).begin(noise(spec))())


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
