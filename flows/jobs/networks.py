"""Read networks from the store and verify them, once per process."""

from functools import lru_cache

import torch

from storage.models.classifiers import ModelCard, load_weights
from storage.store import Store
from tasks.network.backbones import build, is_own
from tasks.network.classifier import Classifier, NetworkSpec
from tasks.network.inference import Inference, inference, refuse_other_arithmetic
from tasks.types import below

CUTTING = "cutting"  # how the names of `cutting_shift` begin in a model's file


class ForeignNetworkError(Exception):
    """A model or a deployment names a network with code that this machine does not allow."""


def refuse_foreign_network(network: str) -> None:
    """Raise ForeignNetworkError if a network is code that the settings do not name.

    A store's card may be a stranger's. The settings are those of the machine that would import it.
    """
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
def load_classifier(store: Store, card: ModelCard) -> Classifier:
    """Read and verify the classifier of a model, and move it to the GPU if there is one.

    Raises:
        NetworkError: it is computed in an arithmetic that this machine does not have.
    """
    spec = NetworkSpec.from_dict(card.network)
    refuse_foreign_network(spec.network)
    refuse_other_arithmetic(spec)
    classifier = build(spec)
    arrays = load_weights(store, card)
    classifier.cutting = below(CUTTING, arrays) or None
    weights = {
        name: torch.from_numpy(array)
        for name, array in arrays.items()
        if not name.startswith(f"{CUTTING}/")
    }
    classifier.load_state_dict(weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return classifier.to(device).eval()


@lru_cache(maxsize=2)
def load_inference(store: Store, card: ModelCard) -> Inference:
    """Load the classifier of a model, and prepare it for inference."""
    return inference(load_classifier(store, card))
