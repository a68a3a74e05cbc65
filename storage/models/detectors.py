"""Keep detectors: ``detectors/<detector>/{detector.safetensors, card.json}``, written once.

A detector has what screening needs besides the model: class means and Cholesky factors by tap,
calibration scores, and the level at which an image is called abnormal. It was fitted; or it has a
parent that was, and has learned nights since: these are called ``<name>-v0001`` and so on.
"""

import re
from collections.abc import Sequence
from functools import cache

from pydantic import Field

from storage import records
from storage.models import classifiers
from storage.models.adaptation import AdaptationCard
from storage.models.classifiers import ModelCard
from storage.models.shipped import FOLDER, adopt, copy_described
from storage.models.statistics import version_name
from storage.models.tunings import BatchTuning, path_of
from storage.store import Store, StoreError, check_name, which

VERSION = re.compile(r"(.+)-v(\d{4,})(?:-(\d+))?")  # of a detector's name


class TapCard(records.Entry):
    """Figures that show how well one tap's covariance is known.

    ``condition_number`` is that of the shrunk covariance; ``dead_units`` never varied.
    """

    width: int
    shrinkage: float
    condition_number: float
    dead_units: int


class RateCard(records.Entry):
    """An error rate of cells (a share): its mean, its deviation between slides, its uncertainty.

    ``low`` and ``high`` bound the mean (95%), counted on ``slides`` and ``cells``.
    """

    mean: records.Share
    low: records.Share
    high: records.Share
    deviation: float = Field(ge=0)
    slides: int
    cells: int


class ThresholdCard(records.Entry):
    """Describe a threshold on a cell's log-odds of "parasitized", and its error rates.

    ``limit_of_detection`` is a share, for a slide of `CountingCard.cells` red cells; None if no
    parasitaemia is certain to be seen.
    """

    log_odds: float
    limit_of_detection: records.Share | None
    false_positives: RateCard
    sensitivity: RateCard


class CountingCard(records.Entry):
    """The thresholds for counting parasites, chosen for ``cells`` red cells, and the diagnosis'.

    ``counting`` is for few parasites, ``dense`` for many. Of the slides whose cells were counted,
    ``least_size`` is the smallest mean size of cells in pixels, and ``least_sharpness`` the lowest
    mean sharpness of photographs; None if unknown.
    """

    cells: int
    counting: ThresholdCard
    dense: ThresholdCard
    diagnosis: ThresholdCard
    least_size: float | None = None
    least_sharpness: float | None = None


class FloorCard(records.Entry):
    """Limits of what can be a smear, from fitted slides altered as places differ.

    ``shift`` is the largest allowed for a group of cells, ``spread`` for the cells of a group among
    each other, ``reach`` for a single cell; ``slides`` counts the altered slides.
    """

    shift: float
    spread: float
    reach: float
    slides: int


class WitnessCard(records.Entry):
    """The calibration of two witnesses of a diagnosis on cells that neither has seen.

    The discriminant uses ``taps``; ``cells`` and ``slides`` (or patients) count its calibration
    set. The witnesses disagree on the share ``disagreeing`` of these cells, and on the share
    ``errors_disagreeing`` of the wrong diagnoses; None if none is wrong.
    """

    taps: list[str]
    slides: int
    cells: int
    disagreeing: records.Share
    errors_disagreeing: records.Share | None


class LearnedNight(records.Entry):
    """A night that a detector has learned: a batch, and the digest of the file that it added.

    ``negative`` names the slides and patients known to be negative, or is "all".
    """

    batch: str
    attempt: int
    manifest_digest: str
    slides: int
    cells: int
    digest: str
    negative: tuple[str, ...] = ()


class LearnedCard(records.Entry):
    """The nights that a detector has learned since its parent was fitted, and their figures.

    ``operation`` made this version. ``false_alarms`` maps levels to the share of ordinary cells
    called abnormal, a mean over slides that were each left out; empty if no slide could be left
    out.
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

    ``slides`` counts the slides that calibrate scores by a cell's own slide; None without such
    scores. ``sequence`` counts the detectors of a store as they are made. ``counting`` is None if
    the error rates of a count are not known. Without a ``floor`` any slide passes for a smear;
    without ``witnesses`` only the network diagnoses. A detector with a ``parent``, the fitted one
    that it was made from, has ``learned``, and one ``tuning`` for all batches; without a tuning
    each batch has its own. ``adaptation`` is None without enough labelled cells.
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
    def counts_abnormal(self) -> bool:
        """Return whether abnormal cells count, as in the error rates of a learned detector."""
        return self.learned is not None

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

    Dates do not count, because a clock may have been ahead once. ``models`` are all models, oldest
    first, if known; see `read_readable` for ``on_damage``.
    """
    cards = records.read_readable(lambda name: _read(store, name), detector_names(store), on_damage)
    models = classifiers.list_models(store, on_damage) if models is None else models
    order = {card.name: place for place, card in enumerate(models)}
    return sorted(
        cards,
        key=lambda card: (
            order.get(card.model, -1),
            card.statistics_version,
            card.sequence,
            card.created_at,
            card.name,
        ),
    )


def _read(store: Store, name: str) -> DetectorCard:
    return DetectorCard.read(store, "detectors", name, "card.json")


def load_detector_card(
    store: Store, name: str | None = None, on_damage: records.Tell | None = None
) -> DetectorCard:
    """Load the card of a detector or of a name's newest version; by default the newest fitted one.

    A store without models and detectors is given those that come with slidewatch. ``on_damage`` is
    called with a message for each damaged detector that is older; without it damage is raised.

    Raises:
        StoreError: there is no such detector (the message lists the others), or its card, or that
            of a model or of a detector that may be newer, is damaged.
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
    with records.naming_a_way_out("--detector"):
        models = classifiers.list_models(store)
        cards = list_detectors(store, damage.append if on_damage else None, models)
        fitted = [card for card in cards if not card.parent]
        newest = fitted[-1] if fitted else None
        for lost in set(have) - {card.name for card in cards}:
            if newest is None or _may_be_newer(lost, newest, models):
                _read(store, lost)  # raises its StoreError
    if newest is None:
        raise StoreError(f"no fitted detector in {store.url}: say --detector {' or '.join(have)}")
    if on_damage:
        for text in damage:
            on_damage(text)
    return newest


def _may_be_newer(lost: str, newest: DetectorCard, models: Sequence[ModelCard]) -> bool:
    """Return whether a damaged detector may, by its name, be a newer fitted one."""
    named = VERSION.fullmatch(lost)
    if named is None or named[1] not in {card.name for card in models}:
        return named is None
    return named[1] != newest.model or int(named[2]) >= newest.statistics_version


@cache
def _shipped_digests() -> frozenset[str]:
    package = Store(str(FOLDER))
    return frozenset(_read(package, name).digest for name in detector_names(package))


def is_shipped(card: DetectorCard) -> bool:
    """Return whether a detector is the one that comes with slidewatch, which nobody fitted here."""
    return card.digest in _shipped_digests()


def load_model_of(store: Store, detector: DetectorCard) -> ModelCard:
    """Load the card of the model that a detector was made from.

    Raises:
        StoreError: the model is missing, or another model has its name by now.
    """
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
