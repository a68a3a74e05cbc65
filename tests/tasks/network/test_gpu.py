"""The GPU's code, on PyTorch's device "cpu" where there is no GPU, beside the processor's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.network.backbones import DEFAULT_NETWORK, build, network_spec
from tasks.network.classifier import Classifier
from tasks.network.conversion import graph_of
from tasks.network.gpu import by_pytorch, folded
from tasks.network.inference import Inference
from tasks.network.processor import by_openvino
from tests.support.needs import needs
from tests.support.networks import classifier, images


def assert_alike(network: Classifier, batch: int) -> None:
    """Run the GPU's code on the device of a network, in passes of ``batch`` images."""
    pixels, spec = images(64), network.spec
    processor = by_openvino(spec, lambda: graph_of(network), kept=False)
    assert processor is not None
    taps, logits = Inference(spec, processor).run(pixels)
    gpu = replace(by_pytorch(network), batch=batch)
    begun = [gpu.begin(pixels[start : start + batch]) for start in range(0, 64, batch)]
    parts = [wait() for wait in begun]  # each pass was begun before the first was waited for
    found = np.concatenate([each for _, each in parts])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_allclose(found, logits, rtol=1e-3, atol=1e-4)
    assert parts[0][0].keys() == taps.keys()
    for name, values in taps.items():
        of_gpu = np.concatenate([each[name] for each, _ in parts])
        assert of_gpu.dtype == np.float32
        np.testing.assert_allclose(of_gpu, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [16, 512])
def test_the_gpus_code_gives_what_the_processors_gives(batch: int) -> None:
    assert_alike(classifier(DEFAULT_NETWORK), batch)


@needs("gpu", torch.cuda.is_available(), "there is none")
def test_a_gpu_gives_what_the_processor_gives() -> None:
    assert_alike(classifier(DEFAULT_NETWORK).cuda(), 16)


def norms_of(network: Classifier) -> list[torch.nn.BatchNorm2d]:
    return [each for each in network.modules() if isinstance(each, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("network", [DEFAULT_NETWORK, "timm:resnet18", "torchvision:resnet18"])
def test_folding_batch_norms_changes_no_output(network: str) -> None:
    made = classifier(network)
    for norm in norms_of(made):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    pixels = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        taps, logits = made.features(pixels)
        after, folded_logits = folded(made).features(pixels)
    assert not norms_of(folded(made))
    assert torch.allclose(logits, folded_logits, rtol=1e-4, atol=1e-5)
    for name, values in taps.items():
        assert torch.allclose(values, after[name], rtol=1e-4, atol=1e-4 * float(values.abs().max()))


def test_a_convolution_that_is_tapped_is_not_folded() -> None:
    spec = network_spec("timm:resnet18", ("a", "b"), 64, taps=("conv1", "layer1"))
    classifier = build(spec).eval()
    torch.nn.init.constant_(classifier.backbone.get_submodule("bn1").running_mean, 3.0)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before, _ = classifier.features(pixels)
        after, _ = folded(classifier).features(pixels)
    assert torch.equal(before["conv1"], after["conv1"])
    assert torch.allclose(before["layer1"], after["layer1"], atol=1e-4)


def test_a_network_that_would_be_folded_wrongly_is_not_folded() -> None:
    """In a dense block another layer's batch-norm may follow a convolution of its width."""
    network = classifier("torchvision:densenet121", ("features.norm5",))
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        taps, _ = network.features(pixels)
        after, _ = folded(network).features(pixels)
    assert torch.equal(after["features.norm5"], taps["features.norm5"])
