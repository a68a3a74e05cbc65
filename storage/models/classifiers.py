"""Keep trained classifiers: ``models/<model>/{model.safetensors, card.json}``, written once.

The first file has the weights and the network as a graph that runs without PyTorch.
"""

from collections.abc import Collection, Sequence
from typing import Any

from storage.arrays import Arrays, arrays_from_bytes
from storage.records import Card, Entry, Tell, load_described, read_readable, save_described
from storage.store import Store, StoreError, check_name, which


class CrossValidation(Entry):
    """The metrics of a model's recipe on patients it was not trained on, over all folds.

    ``digest`` is the sha256 of the table of `storage.models.out_of_fold`; ``metrics`` are rows of
    plain data, with intervals from resampling patients.
    """

    digest: str
    folds: int
    metrics: list[dict[str, Any]]


# The sequence of a model that an evaluation trained to repeat another; never the default.
REPETITION = -1


class ModelCard(Card):
    """The card of a model: its network, its training and its metrics.

    ``network`` has the arguments that rebuild the network; ``split`` the keys (of patients, or as
    ``split_by`` says) of each part; ``digest`` the sha256 of the file of weights and graph, which
    names the arithmetic if it is not float32, so models that differ in it have other features.
    ``sequence`` counts the models of a store as they are made, because clocks go wrong;
    `REPETITION` sorts before all. ``cross_validation`` is set if the model was trained with folds.
    """

    name: str
    network: dict[str, Any]
    preprocessing: str
    tap_widths: dict[str, int]
    temperature: float
    split_by: str
    split: dict[str, list[str]]
    training: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    sequence: int
    cross_validation: CrossValidation | None = None

    @property
    def classes(self) -> list[str]:
        """List the class names in order of the logits."""
        return list(self.network["classes"])

    @property
    def arithmetic(self) -> str:
        """Name the arithmetic of the network."""
        return str(self.network["arithmetic"])

    @property
    def distance_taps(self) -> list[str]:
        """List the taps at which distances are measured, in ascending order."""
        return sorted(self.network.get("distance_taps") or self.tap_widths)

    @property
    def held_out(self) -> frozenset[str]:
        """Collect the keys of the validation and test parts, which statistics must not include."""
        return frozenset(self.split["validation"]) | frozenset(self.split["test"])


def refuse_existing(store: Store, name: str) -> None:
    """Raise StoreError if a model of this name exists, or the name is not allowed."""
    check_name("model", name)
    if store.exists("models", name, "card.json"):
        raise StoreError(
            f"model {name} exists already, and models are never overwritten: choose another name"
        )


def save_model(store: Store, card: ModelCard, weights: bytes) -> None:
    """Write a model's weights and card; StoreError if a model of its name exists."""
    refuse_existing(store, card.name)
    save_described(
        store, weights, card, "models", card.name, file="model.safetensors", card_file="card.json"
    )


def list_models(store: Store, on_damage: Tell | None = None) -> list[ModelCard]:
    """List the cards of all models, oldest first; see `read_readable` for damaged ones."""
    names = model_names(store)
    cards = read_readable(lambda name: load_card(store, name), names, on_damage)
    return sorted(cards, key=lambda card: (card.sequence, card.created_at, card.name))


def model_names(store: Store) -> list[str]:
    """List the names of all models, including those with a damaged card."""
    return store.folders("models", having="card.json")


def refuse_newer_damage(store: Store, lost: Collection[str], cards: Sequence[ModelCard]) -> None:
    """Raise the StoreError of a damaged model that may be newer than all readable ones.

    Models are numbered from 1 as they are made, so a damaged one is older if a number below the
    highest is missing. ``lost`` are names of models with a damaged card, ``cards`` those of the
    others.
    """
    numbers = {card.sequence for card in cards if card.sequence > 0}
    if len(lost) > max(numbers, default=0) - len(numbers):
        for name in sorted(lost):
            load_card(store, name)


def load_card(store: Store, name: str) -> ModelCard:
    """Load the card of one model; StoreError lists the existing ones."""
    check_name("model", name)
    if not store.exists("models", name, "card.json"):
        have = model_names(store)
        raise StoreError(
            f"no model {name!r} in {store.url}; "
            + (which(name, have) if have else "train one with: slidewatch train")
        )
    return ModelCard.read(store, "models", name, "card.json")


def find_card(store: Store, name: str | None, on_damage: Tell | None = None) -> ModelCard:
    """Load the card of the named model, by default the newest.

    ``on_damage`` is called with a message for each damaged older model; without it damage is
    raised.

    Raises:
        StoreError: there is no such model, or it, or a model that may be newer, is damaged.
    """
    if name is not None:
        return load_card(store, name)
    cards = list_models(store, on_damage)
    refuse_newer_damage(store, set(model_names(store)) - {card.name for card in cards}, cards)
    if not cards:
        raise StoreError(f"no model in {store.url} yet; train one with: slidewatch train")
    return cards[-1]


def load_weights(store: Store, card: ModelCard) -> Arrays:
    """Load the weights of a model and verify their digest."""
    return arrays_from_bytes(load_described(store, card, "models", card.name, "model.safetensors"))
