"""The statistics of batch-norms against PyTorch's, and what a tuning leaves alone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.network.backbones import DEFAULT_NETWORK, build
from tasks.network.classifier import Classifier, computed, to_pixels
from tasks.network.conversion import graph_arrays
from tasks.network.inference import Inference
from tasks.network.processor import Graph, by_openvino
from tasks.network.ruler import LOWER
from tasks.network.spec import Computed
from tasks.network.tuning import (
    DISTANT,
    HALF,
    SMALL,
    Home,
    Norms,
    Tuning,
    home_of,
    measuring,
    ruled,
    share_of,
    tunable,
    tune,
    tuned,
    tuned_cutting,
    tuned_weights,
)  # fmt: skip
from tasks.network.tuning import (
    SHARE as MOST_SHARE,
)
from tasks.types import Pixels
from tests.support.networks import classifier, images

SHARE = 0.6


@pytest.fixture(scope="module")
def network() -> Classifier:
    return classifier(DEFAULT_NETWORK)


@pytest.fixture(scope="module")
def graph(network: Classifier) -> Graph:
    return Graph.from_arrays(graph_arrays(network))


@pytest.fixture(scope="module")
def healthy(graph: Graph, network: Classifier) -> Norms:
    return measuring(graph, network.spec)(images(71))


@pytest.fixture(scope="module")
def elsewhere() -> Pixels:
    """Darker cells of less contrast."""
    return (images(40)[::-1] * 0.5 + 60).astype(np.uint8)


@pytest.fixture(scope="module")
def tuning(graph: Graph, network: Classifier, healthy: Norms, elsewhere: Pixels) -> Tuning:
    return tuned_to(graph, network, healthy, elsewhere)


def tuned_to(
    graph: Graph, network: Classifier, healthy: Norms, pixels: Pixels, share: float = SHARE
) -> Tuning:
    own = measuring(graph, network.spec, healthy)(pixels)
    return tune(graph, network.spec, healthy, own, share)[0]


def ready(graph: Graph, network: Classifier) -> Inference:
    device = by_openvino(network.spec, lambda: graph, kept=False)
    assert device is not None  # its outputs agree with what is expected
    return Inference(network.spec, device)


Change = Callable[[str, Tensor], Tensor]


def by_pytorch(network: Classifier, norms: list[str], pixels: Pixels, change: Change) -> Computed:
    """Run a network with some batch-norms' outputs changed, before their activation."""
    hooks = []
    for name in norms:

        def hook(module: nn.BatchNorm2d, inputs: tuple[Tensor], _: Tensor, n: str = name) -> Tensor:
            normal = nn.functional.batch_norm(
                inputs[0], module.running_mean, module.running_var,
                module.weight, module.bias, eps=module.eps,
            )  # fmt: skip
            return getattr(module, "act", nn.Identity())(change(n, normal))

        hooks.append(network.backbone.get_submodule(name).register_forward_hook(hook))
    with torch.inference_mode():
        found = computed(network.features(to_pixels(pixels)))
    for each in hooks:
        each.remove()
    return found


def channels(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[None, :, None, None]


def test_it_computes_what_pytorch_does_with_mixed_statistics(
    network: Classifier, graph: Graph, healthy: Norms, elsewhere: Pixels, tuning: Tuning
) -> None:
    own: dict[str, tuple[Tensor, Tensor]] = {}

    def wholly(name: str, values: Tensor) -> Tensor:
        mean = values.mean((0, 2, 3), keepdim=True)
        variance = values.var((0, 2, 3), unbiased=False, keepdim=True)
        own[name] = mean, variance
        scale = ((channels(healthy.variance[name]) + SMALL) / (variance + SMALL)).sqrt()
        return scale * (values - mean) + channels(healthy.mean[name])

    a = SHARE

    def partly(name: str, values: Tensor) -> Tensor:
        (mean, variance), known = own[name], channels(healthy.mean[name])
        trained = channels(healthy.variance[name]) + SMALL
        scale = (trained / ((1 - a) * trained + a * (variance + SMALL))).sqrt()
        return scale * (values - (1 - a) * known - a * mean) + known

    by_pytorch(network, list(healthy.mean), elsewhere, wholly)
    wanted, wanted_logits = by_pytorch(network, list(healthy.mean), elsewhere[:5], partly)
    taps, logits = ready(tuned(graph, network.spec, tuning), network).run(elsewhere[:5])
    np.testing.assert_allclose(logits, wanted_logits, rtol=1e-3, atol=1e-3)
    for name, values in wanted.items():
        np.testing.assert_allclose(taps[name], values, rtol=1e-3, atol=1e-4)


def test_it_leaves_the_taps_for_distances_alone_to_the_last_bit(
    network: Classifier, graph: Graph, elsewhere: Pixels, tuning: Tuning
) -> None:
    plain, plain_logits = ready(graph, network).run(elsewhere)
    taps, logits = ready(tuned(graph, network.spec, tuning), network).run(elsewhere)
    for name in network.spec.distance_taps:
        assert np.array_equal(taps[name], plain[name])
    assert not np.allclose(taps["blocks.4"], plain["blocks.4"], rtol=0.01)
    assert not np.allclose(logits, plain_logits, rtol=0.01)


def test_training_cells_of_its_own_and_no_share_change_nothing(
    network: Classifier, graph: Graph, healthy: Norms, elsewhere: Pixels
) -> None:
    _, plain = ready(graph, network).run(images(5))
    none = tuned_to(graph, network, healthy, elsewhere, share=0.0)
    _, logits = ready(tuned(graph, network.spec, none), network).run(images(5))
    assert np.array_equal(logits, plain)
    few = images(60)
    same = tuned_to(graph, network, measuring(graph, network.spec)(few), few)
    _, logits = ready(tuned(graph, network.spec, same), network).run(images(5))
    np.testing.assert_allclose(logits, plain, rtol=1e-3, atol=1e-3)


def test_the_same_cells_give_the_same_bytes(
    network: Classifier, graph: Graph, healthy: Norms, elsewhere: Pixels, tuning: Tuning
) -> None:
    again = tuned_to(graph, network, healthy, elsewhere).to_arrays()
    kept = Tuning.from_arrays(tuning.to_arrays()).to_arrays()
    assert again.keys() == kept.keys()
    assert all(np.array_equal(again[name], values) for name, values in kept.items())


def test_weights_for_pytorch_are_tuned_alike(
    network: Classifier, graph: Graph, elsewhere: Pixels, tuning: Tuning
) -> None:
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    other = build(network.spec)
    changed = tuned_weights(weights, tuning)
    other.load_state_dict({name: torch.from_numpy(each) for name, each in changed.items()})
    with torch.inference_mode():
        _, wanted = computed(other.eval().features(to_pixels(elsewhere[:5])))
    _, logits = ready(tuned(graph, network.spec, tuning), network).run(elsewhere[:5])
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)


def test_a_cutting_shift_keeps_what_the_tuning_leaves(network: Classifier, tuning: Tuning) -> None:
    cutting = {name: np.ones(2, np.float32) for name in ("blocks.3", "blocks.4", "logits")}
    left = tuned_cutting(cutting, network.spec, tuning)
    assert np.array_equal(left["blocks.3"], cutting["blocks.3"])
    assert left["logits"] == pytest.approx(1 - tuning.share)


def test_only_what_no_distance_depends_on_can_be_tuned(network: Classifier, graph: Graph) -> None:
    names = list(tunable(graph.network, network.spec))
    assert (names[0], names[-1]) == ("blocks.4.0.bn1", "bn2")
    later = replace(network.spec, distance_taps=("blocks.4",))
    assert next(iter(tunable(graph.network, later))) == "blocks.5.0.bn1"


def test_the_share_grows_from_none_at_home_with_distance_and_cells(
    network: Classifier, graph: Graph, elsewhere: Pixels
) -> None:
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    odds = np.linspace(-5, -1, 9)
    home = home_of(graph, network.spec, weights, images(71), odds)
    assert home is not None
    norm = network.backbone.get_submodule("blocks.4.0.bn1")
    assert np.array_equal(home.trained.mean["blocks.4.0.bn1"], norm.bias.detach())
    assert np.array_equal(home.trained.variance["blocks.4.0.bn1"], norm.weight.detach() ** 2)
    near, far = (
        home.distance(measuring(graph, network.spec, home.trained)(pixels))
        for pixels in (images(71), elsewhere)
    )
    assert far > 2 * near
    assert share_of(near, 10**6) < share_of(far, 10**6) < share_of(DISTANT, 10**6)
    assert share_of(10 * DISTANT, 10**6) == pytest.approx(MOST_SHARE, rel=0.001)
    assert share_of(DISTANT, int(HALF)) == pytest.approx(MOST_SHARE / 4)


@pytest.mark.parametrize("place", [0, 1])
def test_the_bulk_of_a_distant_laboratory_is_lower_than_at_home_and_as_wide_as_it_was(
    place: int,
) -> None:
    own = np.random.default_rng(0).normal(0, 2.5, 999)
    own += -2 - np.median(own)
    logits = np.stack([own, 0 * own] if place == 0 else [0 * own, own], axis=1).astype(np.float32)
    one = np.ones(1, np.float32)
    home = Home(Norms({}, {}), Norms({"n": 0 * one}, {"n": one}), -4.0)
    for distance, median in ((0.0, -2), (DISTANT, -3 - LOWER / 2), (1e6, -4 - LOWER)):
        there = Norms({"n": np.sqrt(distance * (1.001 + SMALL)) * one}, {"n": one})
        read = ruled(Tuning({}, {}, 0.5, {}), home, there, own, place).ruler.of(logits)
        odds = read[:, place] - read[:, 1 - place]
        assert np.median(odds) == pytest.approx(median)
        assert np.allclose(odds - np.median(odds), own - np.median(own), atol=1e-5)
