"""Read networks from the store, and verify them, once a process."""

from functools import lru_cache

import torch

from storage.models.classifiers import ModelCard, load_weights
from storage.store import Store
from tasks.network.backbones import build, is_own
from tasks.network.classifier import Classifier, NetworkSpec
from tasks.network.inference import Inference, inference, refuse_other_arithmetic


class ForeignNetworkError(Exception):
    """A model, or a deployment, names a network whose code this machine's owner has not allowed."""


def refuse_foreign_network(network: str) -> None:
    """Raise ForeignNetworkError where a network is code that the settings do not name.

    A store's card may be a stranger's. The settings are those of the machine that would import it.
    """
    if not is_own(network):
        return
    from flows.settings import Settings  # for no other network are settings read on workers

    allowed = Settings().networks
    if network not in allowed:
        raise ForeignNetworkError(
            f"{network} is code of your own, and 'networks' in the settings of this machine does "
            f"not name it ({', '.join(allowed) or 'it names none'}): add it to slidewatch.toml or "
            "to SLIDEWATCH_NETWORKS"
        )


@lru_cache(maxsize=2)
def load_classifier(store: Store, card: ModelCard) -> Classifier:
    """Read and verify the classifier of a model, onto the GPU where there is one.

    Raises:
        NetworkError: it is computed in an arithmetic that this machine does not have.
    """
    spec = NetworkSpec.from_dict(card.network)
    refuse_foreign_network(spec.network)
    refuse_other_arithmetic(spec)
    classifier = build(spec)
    weights = {name: torch.from_numpy(a) for name, a in load_weights(store, card).items()}
    classifier.load_state_dict(weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return classifier.to(device).eval()


@lru_cache(maxsize=2)
def load_inference(store: Store, card: ModelCard) -> Inference:
    """Load the classifier of a model, and prepare it for inference."""
    return inference(load_classifier(store, card))
