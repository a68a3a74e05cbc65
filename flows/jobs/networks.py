"""Read networks from the store, and verify them, once a process."""

from functools import lru_cache

import torch

from storage.models.classifiers import ModelCard, load_weights
from storage.store import Store
from tasks.network.backbones import build
from tasks.network.classifier import Classifier, NetworkSpec
from tasks.network.inference import Inference, inference


@lru_cache(maxsize=2)
def load_classifier(store: Store, card: ModelCard) -> Classifier:
    """Read and verify the classifier of a model, onto the GPU where there is one."""
    classifier = build(NetworkSpec.from_dict(card.network))
    weights = {name: torch.from_numpy(a) for name, a in load_weights(store, card).items()}
    classifier.load_state_dict(weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return classifier.to(device).eval()


@lru_cache(maxsize=2)
def load_inference(store: Store, card: ModelCard) -> Inference:
    """Load the classifier of a model, and prepare it for inference."""
    return inference(load_classifier(store, card))
