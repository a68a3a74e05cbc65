"""Networks, read from the store and verified once a process."""

from functools import lru_cache

import torch

from storage.models.classifiers import load_card, load_weights
from storage.store import Store, StoreError
from tasks.network.backbones import build
from tasks.network.classifier import Classifier, NetworkSpec
from tasks.network.inference import Inference, inference


@lru_cache(maxsize=2)
def load_classifier(store: Store, model: str, digest: str) -> Classifier:
    """The classifier of a model, on the GPU where there is one."""
    card = load_card(store, model)
    if card.digest != digest:
        raise StoreError(f"model {model} was replaced while it was in use")
    classifier = build(NetworkSpec.from_dict(card.network))
    weights = {name: torch.from_numpy(a) for name, a in load_weights(store, card).items()}
    classifier.load_state_dict(weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return classifier.to(device).eval()


@lru_cache(maxsize=2)
def load_inference(store: Store, model: str, digest: str) -> Inference:
    """The same, made ready to run."""
    return inference(load_classifier(store, model, digest))
