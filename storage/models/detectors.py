"""Keep detectors: ``detectors/<detector>/{detector.safetensors, card.json}``, written once.

A detector is what screening needs beside the model: class means and Cholesky factors by tap,
the calibration scores, and the level at which an image is called abnormal.
"""

from storage.arrays import Arrays, arrays_from_bytes
from storage.models.classifiers import ModelCard, load_card
from storage.records import Card, Part, load_described, save_described
from storage.store import AlreadyExistsError, Store, StoreError, check_name


class TapCard(Part):
    """The figures that tell how well one tap's covariance is known.

    ``condition_number`` is that of the shrunk covariance; ``dead_units`` never varied.
    """

    width: int
    shrinkage: float
    condition_number: float
    dead_units: int


class DetectorCard(Card):
    """What a detector was made from and at which level it speaks.

    ``slides`` counts those that calibrate scores by a cell's own slide; None where the detector
    has no such scores, as all of schema version 1.
    """

    schema_version: int = 2
    name: str
    model: str
    model_digest: str
    statistics_version: int
    taps: dict[str, TapCard]
    images: dict[str, int]
    calibrated_by: str
    calibrating_groups: int
    calibrating_images: int
    alpha: float
    uncertain_below: float
    warnings: list[str]
    slides: int | None = None


def save_detector(store: Store, card: DetectorCard, content: bytes) -> None:
    """Write a detector's arrays and card; StoreError where a detector of its name exists."""
    check_name("detector", card.name)
    try:
        save_described(
            store,
            content,
            card,
            "detectors",
            card.name,
            file="detector.safetensors",
            card_file="card.json",
        )
    except AlreadyExistsError:
        raise StoreError(
            f"detector {card.name} exists already, and detectors are never overwritten"
        ) from None


def list_detectors(store: Store) -> list[DetectorCard]:
    """List the cards of all detectors, oldest first."""
    names = store.folders("detectors", having="card.json")
    cards = (DetectorCard.read(store, "detectors", name, "card.json") for name in names)
    return sorted(cards, key=lambda card: (card.created_at, card.name))


def load_detector_card(store: Store, name: str | None = None) -> DetectorCard:
    """Load the card of a detector, by default the newest; StoreError lists those that there are."""
    if name is not None:
        check_name("detector", name)
        if store.exists("detectors", name, "card.json"):
            return DetectorCard.read(store, "detectors", name, "card.json")
    cards = list_detectors(store)
    if not cards:
        raise StoreError(f"no detector in {store.url} yet; make one with: slidewatch fit")
    if name is not None:
        have = ", ".join(card.name for card in cards)
        raise StoreError(f"no detector {name!r} in {store.url}; there are: {have}")
    return cards[-1]


def load_model_of(store: Store, detector: DetectorCard) -> ModelCard:
    """Load the card of the model that a detector was made from.

    Raises:
        StoreError: it is missing, or another model has its name by now.
    """
    card = load_card(store, detector.model)
    if card.digest != detector.model_digest:
        raise StoreError(
            f"model {card.name} is not the one that detector {detector.name} was made from (sha256 "
            "differs): restore it from a backup, or fit a detector on this one"
        )
    return card


def load_detector(store: Store, card: DetectorCard) -> Arrays:
    """Load the arrays of a detector, and verify their digest."""
    return arrays_from_bytes(
        load_described(store, card, "detectors", card.name, "detector.safetensors")
    )
