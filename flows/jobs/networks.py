"""Read networks from the store and verify them, once per process."""

from functools import lru_cache
from typing import TYPE_CHECKING

from storage.models.classifiers import ModelCard, load_weights
from storage.models.tunings import load_tuning
from storage.store import Store
from tasks.network.cutting import Shift
from tasks.network.inference import Device, Inference, choose, refuse_other_arithmetic
from tasks.network.processor import Graph, OpenVino, by_openvino
from tasks.network.ruler import Ruler
from tasks.network.spec import NetworkError, NetworkSpec, is_own
from tasks.network.tuning import Tuning, tuned, tuned_cutting, tuned_weights
from tasks.types import Arrays, below

if TYPE_CHECKING:
    from tasks.network.classifier import Classifier

# In a model's file, the names of `cutting_shift`, of `graph_arrays`, and of `tuning.Home` are below
# these.
CUTTING, GRAPH, HOME = "cutting", "graph", "home"
_TUNED: dict[tuple[str, str | None], OpenVino] = {}  # the last network that was tuned here


class ForeignNetworkError(Exception):
    """A model or a deployment names a network with code that this machine does not allow."""


def refuse_foreign_network(network: str) -> None:
    """Raise ForeignNetworkError if a network, perhaps a stranger's, is code not allowed here."""
    if not is_own(network):
        return
    from flows.settings import Settings  # workers read settings only for such networks

    allowed = Settings().networks
    if network not in allowed:
        raise ForeignNetworkError(
            f"{network} is code of your own, and 'networks' in the settings of this machine does "
            f"not name it ({', '.join(allowed) or 'it names none'}): add it to slidewatch.toml or "
            "to SLIDEWATCH_NETWORKS"
        )


@lru_cache(maxsize=2)
def load_classifier(store: Store, card: ModelCard) -> "Classifier":
    """Read and verify the classifier of a model, and move it to the GPU if there is one.

    ForeignNetworkError if its code is not allowed here; NetworkError if this machine lacks its
    arithmetic, or it has no weights for PyTorch.
    """
    spec = NetworkSpec.from_dict(card.network)
    refuse_foreign_network(spec.network)
    refuse_other_arithmetic(spec)
    return _classifier(spec, load_weights(store, card))


def _classifier(spec: NetworkSpec, arrays: Arrays) -> "Classifier":
    weights = _weights(arrays)
    if not weights:
        raise NetworkError(
            "the model that comes with slidewatch has no weights for PyTorch, which attacks and "
            "training need: use one that slidewatch train has made"
        )
    # PyTorch and its networks take longer to import than everything else that a worker does.
    import torch

    from tasks.network.backbones import build

    classifier = build(spec)
    classifier.cutting = below(CUTTING, arrays)
    classifier.load_state_dict({name: torch.from_numpy(each) for name, each in weights.items()})
    return classifier.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _weights(arrays: Arrays) -> Arrays:
    others = tuple(f"{name}/" for name in (CUTTING, GRAPH, HOME))
    return {name: array for name, array in arrays.items() if not name.startswith(others)}


def keep_tuned(card: ModelCard, device: OpenVino) -> None:
    """Keep a network that was compiled to tune it, so that loading it compiles nothing."""
    _TUNED.clear()
    _TUNED[card.digest, card.tuning] = device


@lru_cache(maxsize=2)
def load_inference(store: Store, card: ModelCard) -> Inference:
    """Prepare the network of a model with its tuning, if any; errors as of `load_classifier`."""
    spec = NetworkSpec.from_dict(card.network)
    refuse_other_arithmetic(spec)
    arrays = load_weights(store, card)
    graph, tuning = below(GRAPH, arrays), None
    cutting: Shift = below(CUTTING, arrays)
    ruler = Ruler()
    if card.tuning is not None:
        tuning = Tuning.from_arrays(load_tuning(store, card.name, card.tuning))
        cutting, ruler = tuned_cutting(cutting, spec, tuning), tuning.ruler

    def read() -> Graph:
        plain = Graph.from_arrays(graph)
        return plain if tuning is None else tuned(plain, spec, tuning)

    def on_processor() -> Device | None:
        return _TUNED.pop((card.digest, card.tuning), None) or by_openvino(spec, read, not tuning)

    def on_gpu() -> Device:
        refuse_foreign_network(spec.network)
        weights = arrays if tuning is None else tuned_weights(arrays, tuning)
        classifier = _classifier(spec, weights)
        from tasks.network.gpu import by_pytorch

        return by_pytorch(classifier)

    on_other = spec.arithmetic != "int8" and _weights(arrays)
    ways = on_processor if graph else None, on_gpu if on_other else None
    return Inference(spec, choose(*ways), cutting, ruler)
