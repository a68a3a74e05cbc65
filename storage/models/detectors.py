"""Keep detectors: ``detectors/<detector>/{detector.safetensors, card.json}``, written once.

A detector has class means and Cholesky factors by tap, calibration scores and a level. It was
fitted, or has a fitted parent and has learned nights since: ``<name>-v0001`` and so on.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import Field

from storage import records
from storage.models import classifiers
from storage.models.classifiers import ModelCard
from storage.models.shipped import FOLDER, adopt, copy_described
from storage.models.statistics import version_name
from storage.models.tunings import BatchTuning, path_of
from storage.store import Store, StoreError, check_name, which

VERSION = re.compile(r"(.+)-v(\d{4,})(?:-(\d+))?")  # of a detector's name


class AdaptationCard(records.Entry):
    """The adaptation of a diagnosis by labelled cells: ``scale`` and ``bias`` of its log-odds.

    They are those of the detector's own discriminant if ``statistics`` were adapted, too. ``gain``
    is the fall of the log loss on held-back cells, or slides if ``by_slide``. It is ``accepted`` if
    the gain is above 0 (its 95% interval, if not the statistics alone) even with one more error of
    each kind.
    """

    scale: float
    bias: float
    statistics: bool = False
    accepted: bool
    cells: int
    slides: int
    by_slide: bool
    loss_before: float
    loss_after: float
    accuracy_before: records.Share
    accuracy_after: records.Share
    gain: float
    gain_low: float
    gain_high: float

    @property
    def text(self) -> str:
        """Describe the adaptation and its effect to a person."""
        used = "adapted" if self.accepted else "not adapted"
        whose = "the class statistics of " * self.statistics
        held = "slides" if self.by_slide else "cells"
        return (
            f"{used} by {whose}{self.cells:,} labelled cells of {self.slides:,} patients or "
            f"slides: on {held} held back, accuracy {self.accuracy_before:.1%} without and "
            f"{self.accuracy_after:.1%} with, log loss {self.loss_before:.3f} and "
            f"{self.loss_after:.3f} (gain {self.gain_low:.3f} to {self.gain_high:.3f})"
        )


class TapCard(records.Entry):
    """Figures that show how well one tap's covariance is known; ``dead_units`` never varied."""

    width: int
    shrinkage: float
    condition_number: float
    dead_units: int


class RateCard(records.Entry):
    """An error rate of cells: its mean with 95% bounds, and its deviation between slides."""

    mean: records.Share
    low: records.Share
    high: records.Share
    deviation: float = Field(ge=0)
    slides: int
    cells: int


class ThresholdCard(records.Entry):
    """Describe a threshold on a cell's log-odds of "parasitized", and its error rates.

    ``limit_of_detection`` is of a slide of `CountingCard.cells` red cells; None if none is certain.
    """

    log_odds: float
    limit_of_detection: records.Share | None
    false_positives: RateCard
    sensitivity: RateCard


class CountingCard(records.Entry):
    """The thresholds for counting parasites, chosen for ``cells`` red cells, and the diagnosis'.

    ``counting`` is for few parasites, ``dense`` for many. ``least_size`` (pixels) and
    ``least_sharpness`` are the lowest means of counted slides; None if unknown.
    """

    cells: int
    counting: ThresholdCard
    dense: ThresholdCard
    diagnosis: ThresholdCard
    least_size: float | None = None
    least_sharpness: float | None = None


class FloorCard(records.Entry):
    """Limits of a smear: ``shift`` and ``spread`` of a group of cells, and ``reach`` of one."""

    shift: float
    spread: float
    reach: float
    slides: int


class WitnessCard(records.Entry):
    """The calibration of two witnesses of a diagnosis on cells that neither has seen.

    The discriminant uses ``taps``. The witnesses disagree on the share ``disagreeing`` of the
    cells, and ``errors_disagreeing`` of the wrong diagnoses; None if none is wrong.
    """

    taps: list[str]
    slides: int
    cells: int
    disagreeing: records.Share
    errors_disagreeing: records.Share | None


class LearnedNight(records.Entry):
    """A night that a detector has learned, its file's digest, and ``negative`` names, or "all"."""

    batch: str
    attempt: int
    manifest_digest: str
    slides: int
    cells: int
    digest: str
    negative: tuple[str, ...] = ()


class LearnedCard(records.Entry):
    """The nights that a detector has learned since its parent was fitted, and their figures.

    ``false_alarms`` maps levels to the share of ordinary cells called abnormal, a mean over slides
    that were each left out; empty if none could be.
    """

    operation: str
    nights: list[LearnedNight]
    false_alarms: dict[str, records.Share]

    @property
    def slides(self) -> int:
        """Count the slides of all nights."""
        return sum(night.slides for night in self.nights)

    @property
    def cells(self) -> int:
        """Count the cells of these slides that were learned."""
        return sum(night.cells for night in self.nights)

    @property
    def alarms_text(self) -> str:
        """Describe to a person how often ordinary cells are called abnormal."""
        levels = sorted(self.false_alarms, key=float, reverse=True)
        return ", ".join(f"{self.false_alarms[level]:.3f} at {level}" for level in levels)


class DetectorCard(records.Card):
    """The card of a detector: its origin, its level, and what it can do.

    ``slides`` counts those that calibrate scores by a cell's own slide. ``counting`` is None if
    error rates are not known; without a ``floor`` any slide passes for a smear; without
    ``witnesses`` only the network diagnoses. A detector with a fitted ``parent`` has ``learned``,
    and may have one ``tuning`` for all batches, and an ``adaptation``.
    """

    name: str
    model: str
    model_digest: str
    statistics_version: int
    taps: dict[str, TapCard]
    images: dict[str, int]
    calibrated_by: str
    calibrating_groups: int
    calibrating_images: int
    alpha: float = Field(gt=0, lt=1)
    uncertain_below: records.Share
    warnings: list[str]
    slides: int | None = None
    sequence: int
    counting: CountingCard | None = None
    floor: FloorCard | None = None
    witnesses: WitnessCard | None = None
    parent: str | None = None
    learned: LearnedCard | None = None
    tuning: BatchTuning | None = None
    adaptation: AdaptationCard | None = None

    @property
    def nights(self) -> list[LearnedNight]:
        """List the nights that it has learned."""
        return self.learned.nights if self.learned else []

    def night(self, batch: str) -> LearnedNight | None:
        """Find a batch among these nights, or None."""
        return next((night for night in self.nights if night.batch == batch), None)


def save_detector(store: Store, card: DetectorCard, content: bytes) -> None:
    """Write a detector's arrays and card; StoreError if a detector of its name exists."""
    check_name("detector", card.name)
    with records.once(f"detector {card.name} exists already, and detectors are never overwritten"):
        records.save_described(
            store, content, card, "detectors", card.name,
            file="detector.safetensors", card_file="card.json",
        )  # fmt: skip


def detector_names(store: Store) -> list[str]:
    """List the names of all detectors, including those with a damaged card."""
    return store.folders("detectors", having="card.json")


def versions_of(store: Store, name: str) -> list[str]:
    """List the detectors that are versions of a name, oldest first."""
    found = ((each, VERSION.fullmatch(each)) for each in detector_names(store))
    mine = [(int(m[2]), int(m[3] or 1), each) for each, m in found if m and m[1] == name]
    return [each for _, _, each in sorted(mine)]


def name_of(detector: str) -> str:
    """Return the name of which a detector is a version, or its own.

    >>> name_of("kampala-v0003"), name_of("m-v0001-2"), name_of("golden")
    ('kampala', 'm', 'golden')
    """
    named = VERSION.fullmatch(detector)
    return named[1] if named else detector


def next_version(store: Store, name: str) -> str:
    """Return the name of the next version of a name."""
    versions = [VERSION.fullmatch(each) for each in versions_of(store, name)]
    return f"{name}-{version_name(1 + max((int(m[2]) for m in versions if m), default=0))}"


def find_detector(store: Store, name: str) -> DetectorCard | None:
    """Load the card of a detector, or of the newest version of a name; None if there is none."""
    check_name("detector", name)
    if store.exists("detectors", name, "card.json"):
        return _read(store, name)
    versions = versions_of(store, name)
    return _read(store, versions[-1]) if versions else None


def list_detectors(
    store: Store, on_damage: records.Tell | None = None, models: Sequence[ModelCard] | None = None
) -> list[DetectorCard]:
    """List the cards of all detectors, oldest first: by model, then by statistics version.

    ``models`` are all models, oldest first, if known; see `read_readable` for ``on_damage``.
    """
    cards = records.read_readable(lambda name: _read(store, name), detector_names(store), on_damage)
    order = _ages(classifiers.list_models(store, on_damage) if models is None else models)

    def age(card: DetectorCard) -> tuple[Any, ...]:
        place = order.get(card.model, -1)
        return place, card.statistics_version, card.sequence, card.created_at, card.name

    return sorted(cards, key=age)


def _read(store: Store, name: str) -> DetectorCard:
    return DetectorCard.read(store, "detectors", name, "card.json")


def _ages(models: Sequence[ModelCard]) -> dict[str, int]:
    return {card.name: place for place, card in enumerate(models)}


def load_detector_card(
    store: Store, name: str | None = None, on_damage: records.Tell | None = None
) -> DetectorCard:
    """Load the card of a detector or of a name's newest version; by default the newest fitted one.

    A store without models and detectors is given those that come with slidewatch. ``on_damage`` is
    called for each damaged older detector or model; without it damage is raised. StoreError if
    there is no such detector, or its card, or that of one that may be newer, is damaged.
    """
    if name is not None and (card := find_detector(store, name)):
        return card
    have = detector_names(store)
    if not have and name is None:
        adopt(store)
        have = detector_names(store)
    if not have:
        raise StoreError(f"no detector in {store.url} yet; make one with: slidewatch fit")
    if name is not None:
        raise StoreError(f"no detector {name!r} in {store.url}; {which(name, have)}")
    damage = list[str]()
    tell = damage.append if on_damage else None
    models = classifiers.list_models(store, tell)
    cards = list_detectors(store, tell, models)
    readable = {card.name for card in cards}
    cards = _of_readable_models(store, [each for each in cards if not each.parent], models)
    for lost in have:
        if lost not in readable and (not cards or _may_be_newer(lost, cards[-1], models)):
            _read(store, lost)  # raises its StoreError
    if not cards:
        raise StoreError(f"no fitted detector in {store.url}: say --detector {' or '.join(have)}")
    if on_damage:
        for text in damage:
            on_damage(text)
    return cards[-1]


def _of_readable_models(
    store: Store, cards: list[DetectorCard], models: Sequence[ModelCard]
) -> list[DetectorCard]:
    """Skip detectors whose model has a damaged card; StoreError if one may be the newest."""
    lost = set(classifiers.model_names(store)) - {model.name for model in models}
    kept = [card for card in cards if card.model not in lost]
    left_out = [card for card in cards if card.model in lost]
    if left_out and not (kept and kept[-1].sequence > max(each.sequence for each in left_out)):
        classifiers.load_card(store, left_out[-1].model)  # raises its StoreError
    if left_out:
        classifiers.refuse_newer_damage(store, lost, models)
    return kept


def _may_be_newer(lost: str, card: DetectorCard, models: Sequence[ModelCard]) -> bool:
    """Return whether a detector with a damaged card may, by its name, be newer than another."""
    named = VERSION.fullmatch(lost)
    if named is None:
        return True
    model, version = named[1], int(named[2])
    if model == card.model:
        return version >= card.statistics_version
    order = _ages(models)
    return order.get(model, -1) > order.get(card.model, -1)


@cache
def is_shipped(card: DetectorCard) -> bool:
    """Return whether a detector is the one that comes with slidewatch, which nobody fitted here."""
    package = Store(str(FOLDER))
    return card.digest in {_read(package, name).digest for name in detector_names(package)}


def load_model_of(store: Store, detector: DetectorCard) -> ModelCard:
    """Load the card of a detector's model; StoreError if it is missing, or another has its name."""
    card = classifiers.load_card(store, detector.model)
    if card.digest != detector.model_digest:
        raise StoreError(
            f"model {card.name} is not the one that detector {detector.name} was made from (sha256 "
            "differs): restore it from a backup, or fit a detector on this one"
        )
    return card


def load_detector(store: Store, card: DetectorCard) -> records.Arrays:
    """Load the arrays of a detector and verify their digest."""
    return records.load_described(store, card, "detectors", card.name, "detector.safetensors")


def borrow(store: Store, into: Store, card: DetectorCard) -> None:
    """Copy all that screening with a detector needs to another store, unchanged."""
    copy_described(store, into, "models", load_model_of(store, card).name)
    copy_described(store, into, "detectors", card.name)
    if card.tuning and card.tuning.tuning:
        path = path_of(card.model, card.tuning.tuning)
        into.write_bytes(store.read_bytes(*path), *path)
