"""Keep trained classifiers: ``models/<model>/{model.safetensors, card.json}``, written once.

The file has the weights and a graph that runs without PyTorch. With folds, ``out_of_fold.parquet``
has each image's diagnosis by a network trained without its patient.

``trainings/<training>/epoch-NNNN...`` are states of unfinished trainings, named by the digest of
all that decides their outcome, until the model is written.
"""

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from storage import parquet, records
from storage.store import Store, StoreError, check_name, digest_of, which

TRAININGS = "trainings"  # the folder of their states
_TEXT, _SCORE = pa.string(), pa.float64()
_COLUMNS: list[tuple[str, pa.DataType, bool, str]] = [
    ("uri", _TEXT, False, "address of the image"),
    ("image_id", _TEXT, False, "sha256 of the image's bytes"),
    ("patient_id", _TEXT, True, "patient, or null where the image names none"),
    ("slide_id", _TEXT, True, "slide, or null where the image names none"),
    ("label", _TEXT, False, "class that the image was given"),
    ("fold", pa.int16(), False, 
     "number of the fold, from 0, that the image's patient was tested in"),
    ("log_odds", _SCORE, False,
     "of the first class by the fold's network and statistics, as other folds calibrate"),
    ("probability", _SCORE, False, "of the first class, by the same"),
    ("network", _SCORE, False,
     "log-odds of the first class by the fold's network, by its temperature"),
    ("statistics", _SCORE, True,
     "score of the discriminant of the fold's statistics, less the patient's lean"),
    ("stain", pa.int16(), False,
     "number of the cluster, from 0, of the patient's stain; the palest first"),
]  # fmt: skip

OUT_OF_FOLD = pa.schema(
    [
        pa.field(name, kind, nullable=nullable, metadata={"description": meaning})
        for name, kind, nullable, meaning in _COLUMNS
    ]
)


class CrossValidation(records.Entry):
    """The metrics of a recipe over all folds, with intervals by patient, and the table's digest."""

    digest: str
    folds: int
    metrics: list[dict[str, Any]]


class ModelCard(records.Card):
    """The card of a model: its network, its training and its metrics.

    ``network`` has the arguments that rebuild the network; ``split`` the keys of each part
    (patients, or as ``split_by`` says); ``digest`` the sha256 of weights and graph, and so of the
    arithmetic. ``sequence`` counts the models of a store from 1, because clocks go wrong.
    ``tuning`` is the digest of a run's tuning (`storage.models.tunings`), which no file has.
    """

    name: str
    network: dict[str, Any]
    preprocessing: str
    tap_widths: dict[str, int]
    temperature: float = Field(gt=0.04, lt=25)  # fitted ones are from 1/20 to 20
    split_by: str
    split: dict[str, list[str]]
    training: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    sequence: int
    cross_validation: CrossValidation | None = None
    tuning: str | None = Field(default=None, exclude=True)

    @property
    def features(self) -> str:
        """Return the name under which features of this model, with its tuning, are kept."""
        return features_name(self.name, self.tuning)

    def tuned(self, tuning: str | None) -> "ModelCard":
        """Return the card of the same model with a tuning, or with none."""
        return self.model_copy(update={"tuning": tuning})

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
        return sorted(self.network["distance_taps"] or self.tap_widths)

    @property
    def held_out(self) -> frozenset[str]:
        """Collect the keys of the validation and test parts, which statistics must not include."""
        return frozenset(self.split["validation"]) | frozenset(self.split["test"])


def features_name(model: str, tuning: str | None) -> str:
    """Return the name under which features of a model with a tuning are kept.

    No model's name can contain a plus sign.

    >>> features_name("m", None), features_name("m", "0123456789abcdef0123")
    ('m', 'm+0123456789abcdef')
    """
    return f"{model}+{tuning[:16]}" if tuning else model


def model_of(features: str) -> str:
    """Return the model of features that are kept under a name; see `features_name`."""
    return features.partition("+")[0]


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
    records.save_described(
        store, weights, card, "models", card.name, file="model.safetensors", card_file="card.json"
    )


def list_models(store: Store, on_damage: records.Tell | None = None) -> list[ModelCard]:
    """List the cards of all models, oldest first; see `read_readable` for damaged ones."""
    names = model_names(store)
    cards = records.read_readable(lambda name: load_card(store, name), names, on_damage)
    return sorted(cards, key=lambda card: (card.sequence, card.created_at, card.name))


def model_names(store: Store) -> list[str]:
    """List the names of all models, including those with a damaged card."""
    return store.folders("models", having="card.json")


def refuse_newer_damage(store: Store, lost: Collection[str], cards: Sequence[ModelCard]) -> None:
    """Raise the StoreError of a damaged model that may be newer than all readable ``cards``.

    Models are numbered from 1, so a ``lost`` one is older if a number below the highest is missing.
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


def find_card(store: Store, name: str | None, on_damage: records.Tell | None = None) -> ModelCard:
    """Load the card of the named model, by default the newest.

    ``on_damage`` is called for each damaged older model; without it damage is raised. StoreError if
    there is no such model, or it, or one that may be newer, is damaged.
    """
    if name is not None:
        return load_card(store, name)
    cards = list_models(store, on_damage)
    refuse_newer_damage(store, set(model_names(store)) - {card.name for card in cards}, cards)
    if not cards:
        raise StoreError(f"no model in {store.url} yet; train one with: slidewatch train")
    return cards[-1]


def load_weights(store: Store, card: ModelCard) -> records.Arrays:
    """Load the weights of a model and verify their digest."""
    return records.load_described(store, card, "models", card.name, "model.safetensors")


def save_out_of_fold(store: Store, model: str, table: pa.Table) -> str:
    """Write the table of a model that has no card yet; return the digest for its card."""
    content = parquet.table_to_bytes(table.cast(OUT_OF_FOLD))
    store.write_bytes(content, "models", model, "out_of_fold.parquet")
    return digest_of(content)


def load_out_of_fold(store: Store, card: ModelCard) -> pa.Table | None:
    """Read the verified table `OUT_OF_FOLD` of a model; None if it was trained without folds."""
    if card.cross_validation is None:
        return None
    path, digest = ("models", card.name, "out_of_fold.parquet"), card.cross_validation.digest
    what = "the file that its card describes"
    return parquet.table_from_bytes(records.read_verified(store, path, digest, what))


class TrainingState(records.Card):
    """The card of a state: the number of epochs completed."""

    epoch: int


def save_state(store: Store, training: str, epoch: int, arrays: records.Arrays) -> None:
    """Write the state after an epoch, then remove earlier ones; a kill leaves at least one."""
    content = records.arrays_to_bytes(arrays)
    card = TrainingState(created_at=records.now(), digest=digest_of(content), epoch=epoch)
    earlier = [name for name in store.names(TRAININGS, training) if name.startswith("epoch-")]
    stem = f"epoch-{epoch:04d}"
    for name in (f"{stem}.json", f"{stem}.safetensors"):
        store.remove(TRAININGS, training, name)  # damaged, or this epoch would not be repeated
    records.save_described(
        store, content, card, TRAININGS, training,
        file=f"{stem}.safetensors", card_file=f"{stem}.json",
    )  # fmt: skip
    for name in earlier:
        if not name.startswith(stem):
            store.remove(TRAININGS, training, name)


def verify_states(store: Store, training: str) -> None:
    """Compare each state with its card; StoreError if one is damaged."""
    for name in store.names(TRAININGS, training):
        if name.endswith(".json"):
            _read_state(store, training, name)


def _read_state(store: Store, training: str, card_file: str) -> records.Arrays:
    card = TrainingState.read(store, TRAININGS, training, card_file)
    file = f"{card_file.removesuffix('.json')}.safetensors"
    return records.load_described(store, card, TRAININGS, training, file)


def load_state(store: Store, training: str, on_damage: records.Tell) -> records.Arrays | None:
    """Read the newest undamaged state of a training; None if there is none."""
    cards = [name for name in store.names(TRAININGS, training) if name.endswith(".json")]
    for name in sorted(cards, reverse=True):
        try:
            return _read_state(store, training, name)
        except StoreError as error:
            on_damage(f"left out: {error}")
    return None


def remove_states(store: Store, training: str) -> None:
    """Remove the states of a training."""
    for name in store.names(TRAININGS, training):
        if name.startswith("epoch-"):
            store.remove(TRAININGS, training, name)
