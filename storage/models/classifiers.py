"""Keep trained classifiers: ``models/<model>/{model.safetensors, card.json}``, written once."""

from collections.abc import Collection, Sequence
from typing import Any

from storage.arrays import Arrays, arrays_from_bytes
from storage.records import Card, Part, Tell, load_described, read_readable, save_described
from storage.store import Store, StoreError, check_name, which


class CrossValidation(Part):
    """The figures of a model's recipe on patients that it was not trained on, in all folds.

    ``digest`` is the sha256 of the table of `storage.models.out_of_fold`; ``metrics`` are rows of
    plain data, with intervals from resampling patients.
    """

    digest: str
    folds: int
    metrics: list[dict[str, Any]]


# The sequence of a model that an evaluation has trained to repeat another: it is never the default.
REPETITION = -1


class ModelCard(Card):
    """The card of a model: its network, its training and its metrics.

    ``network`` has the arguments that rebuild the network; ``split`` the keys (of patients, or
    of what ``split_by`` says) of each part; ``digest`` the sha256 of the weights' file, which names
    the arithmetic where it is not float32, so that models that differ in it have other features;
    ``sequence`` counts the models of a store as they are made, for clocks go wrong. It is 0 in
    models of before 0.2, and `REPETITION` comes before all others. ``cross_validation`` is there if
    the model was trained with folds.
    """

    schema_version: int = 2  # 1 knew no arithmetic but float32
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
    sequence: int = 0
    cross_validation: CrossValidation | None = None

    @classmethod
    def _had_digest(cls, data: dict[str, Any]) -> bool:
        # The schema version stayed when cards got a digest; models count since then, too.
        return "sequence" in data

    @property
    def classes(self) -> list[str]:
        """List the class names in order of the logits."""
        return list(self.network["classes"])

    @property
    def arithmetic(self) -> str:
        """Name the arithmetic of the network, which before 0.4 was always float32."""
        return str(self.network.get("arithmetic", "float32"))

    @property
    def distance_taps(self) -> list[str]:
        """List the taps that distances are measured at, in rising order."""
        return sorted(self.network.get("distance_taps") or self.tap_widths)

    @property
    def held_out(self) -> frozenset[str]:
        """Collect the keys of validation and test, which no statistics may be fitted on."""
        return frozenset(self.split["validation"]) | frozenset(self.split["test"])


def refuse_existing(store: Store, name: str) -> None:
    """Raise StoreError where a model of this name exists already, or the name is not allowed."""
    check_name("model", name)
    if store.exists("models", name, "card.json"):
        raise StoreError(
            f"model {name} exists already, and models are never overwritten: choose another name"
        )


def save_model(store: Store, card: ModelCard, weights: bytes) -> None:
    """Write a model's weights and card; StoreError where a model of its name exists."""
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
    """List the names of all models, those whose card is damaged too."""
    return store.folders("models", having="card.json")


def refuse_newer_damage(store: Store, lost: Collection[str], cards: Sequence[ModelCard]) -> None:
    """Raise what is wrong with a model that may be newer than all whose cards can be read.

    Models count from 1 as they are made, so a damaged one is older where a number below the
    highest is missing.

    Args:
        store: where they are.
        lost: names of those whose card is damaged.
        cards: of the others.
    """
    numbers = {card.sequence for card in cards if card.sequence > 0}
    if len(lost) > max(numbers, default=0) - len(numbers):
        for name in sorted(lost):
            load_card(store, name)


def load_card(store: Store, name: str) -> ModelCard:
    """Load the card of one model; StoreError lists the models that there are."""
    check_name("model", name)
    if not store.exists("models", name, "card.json"):
        have = model_names(store)
        raise StoreError(
            f"no model {name!r} in {store.url}; "
            + (which(name, have) if have else "train one with: slidewatch train")
        )
    return ModelCard.read(store, "models", name, "card.json")


def find_card(store: Store, name: str | None, on_damage: Tell | None = None) -> ModelCard:
    """Load the card of the model of that name, or of the newest where no name is given.

    Args:
        store: where it is.
        name: of the model.
        on_damage: is told which older models are damaged; without it damage is raised.

    Raises:
        StoreError: there is none, or it is damaged, or one that may be the newest is.
    """
    if name is not None:
        return load_card(store, name)
    cards = list_models(store, on_damage)
    refuse_newer_damage(store, set(model_names(store)) - {card.name for card in cards}, cards)
    if not cards:
        raise StoreError(f"no model in {store.url} yet; train one with: slidewatch train")
    return cards[-1]


def load_weights(store: Store, card: ModelCard) -> Arrays:
    """Load the weights of a model, and verify their digest."""
    return arrays_from_bytes(load_described(store, card, "models", card.name, "model.safetensors"))
