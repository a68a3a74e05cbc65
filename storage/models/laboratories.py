"""Keep each laboratory's own normal, in ``laboratories/<laboratory>/<version>/``.

A version is ``laboratory.safetensors`` and ``card.json``, and is written once. Each night's
contribution is in ``laboratories/<laboratory>/nights/`` under its digest: versions share it, and it
can be taken out again exactly.
"""

from storage import records
from storage.batches import features, manifests
from storage.models import tunings
from storage.models.detectors import CountingCard, DetectorCard, load_detector_card, load_model_of
from storage.models.shipped import copy_described
from storage.models.statistics import version_name
from storage.store import Store, StoreError, check_name, digest_of, which

FOLDER = "laboratories"
NIGHTS = "nights"
ALL, NONE = "all", "none"  # of a night's slides that are known to be negative


class LaboratoryNight(records.Entry):
    """A night of a laboratory: a batch, and the digest of the file with its contribution.

    ``negative`` names the slides and patients known to be negative, or is "all". The errors of
    nights of slidewatch 0.7 leave abnormal cells out, which count now: ``abnormal_counted``.
    """

    batch: str
    attempt: int
    manifest_digest: str
    slides: int
    cells: int
    digest: str
    negative: tuple[str, ...] = ()
    abnormal_counted: bool = False


class AdaptationCard(records.Entry):
    """The adaptation of a diagnosis by labelled cells: ``scale`` and ``bias`` of its log-odds.

    They are those of the laboratory's own discriminant if the ``statistics`` were also adapted.

    ``gain`` is the fall of the log loss on held-back cells. The adaptation is used if ``accepted``:
    ``gain_low``, the lower end of the gain's 95% interval, is above 0 (``gain``, if the statistics
    alone were adapted), and would stay so if one more cell of each kind were diagnosed wrongly.
    Losses and accuracies are means of both kinds on held-back cells, or on whole held-back slides
    if ``by_slide``.
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


class LaboratoryCard(records.Card):
    """The card of a version of a laboratory: its origin and its error rates.

    ``false_alarms`` maps levels to the share of ordinary cells called abnormal, a mean over slides
    that were each left out; empty if no slide could be left out. ``counting`` has the laboratory's
    own error rates at the detector's thresholds; None without slides known to be negative.
    ``adaptation`` is None without enough labelled cells.
    """

    name: str
    version: int
    parent: int | None
    operation: str
    detector: str
    detector_digest: str
    model: str
    model_digest: str
    statistics_version: int
    nights: list[LaboratoryNight]
    slides: int
    cells: int
    calibrating_slides: int
    false_alarms: dict[str, records.Share]
    warnings: list[str]
    counting: CountingCard | None = None
    adaptation: AdaptationCard | None = None

    @property
    def label(self) -> str:
        """Return the laboratory and its version as reports name them, e.g. ``kampala/v0003``."""
        return f"{self.name}/{version_name(self.version)}"

    @property
    def alarms_text(self) -> str:
        """Describe to a person how often ordinary cells are called abnormal."""
        levels = sorted(self.false_alarms, key=float, reverse=True)
        return ", ".join(f"{self.false_alarms[level]:.3f} at {level}" for level in levels)

    @property
    def folder(self) -> tuple[str, ...]:
        """Locate the version, relative to the store."""
        return (FOLDER, self.name, version_name(self.version))

    @property
    def counts_abnormal(self) -> bool:
        """Return whether the error rates are those of the cells that count."""
        return all(night.abnormal_counted for night in self.nights)

    def night(self, batch: str) -> LaboratoryNight | None:
        """Find a batch among the nights, or None."""
        return next((night for night in self.nights if night.batch == batch), None)


def list_laboratories(store: Store, on_damage: records.Tell | None = None) -> list[LaboratoryCard]:
    """List the newest version of each laboratory, by name; see `read_readable` for damaged ones."""
    names = [name for name in store.names(FOLDER) if laboratory_versions(store, name)]
    return records.read_readable(lambda name: load_laboratory(store, name), names, on_damage)


def laboratory_versions(store: Store, name: str) -> list[int]:
    """List the numbers of a laboratory's versions, oldest first."""
    folders = store.folders(FOLDER, name, having="card.json")
    return sorted(int(folder.removeprefix("v")) for folder in folders)


def find_laboratory(store: Store, name: str) -> LaboratoryCard | None:
    """Load the card of a laboratory's newest version; None if it was never commissioned."""
    check_name("laboratory", name)
    versions = laboratory_versions(store, name)
    return load_laboratory_version(store, name, versions[-1]) if versions else None


def load_laboratory(store: Store, name: str) -> LaboratoryCard:
    """Load the card of a laboratory's newest version; StoreError lists those that exist."""
    card = find_laboratory(store, name)
    if card is None:
        have = [each for each in store.names(FOLDER) if laboratory_versions(store, each)]
        raise StoreError(
            f"no laboratory {name!r} in {store.url}; "
            + (which(name, have) if have else "make one with: slidewatch commission")
        )
    return card


def load_laboratory_version(store: Store, name: str, version: int) -> LaboratoryCard:
    """Load the card of one version of a laboratory."""
    return LaboratoryCard.read(store, FOLDER, name, version_name(version), "card.json")


def load_laboratory_of(store: Store, label: str) -> LaboratoryCard:
    """Load the card of the version that a report names, e.g. ``kampala/v0003``."""
    name, _, version = label.partition("/v")
    return load_laboratory_version(store, name, int(version))


def detector_at(
    store: Store, detector: str | None, laboratory: str | None, tell: records.Tell | None = None
) -> tuple[DetectorCard, LaboratoryCard | None]:
    """Load the detector to screen with, and the laboratory, if any.

    By default the detector is the laboratory's, or the newest without a laboratory. ``tell`` is
    called with a message for each damaged detector, and if one is newer than the laboratory's.

    Raises:
        StoreError: one of them is missing or damaged, or the laboratory belongs to another
        detector.
    """
    if laboratory is None:
        return load_detector_card(store, detector, on_damage=tell), None
    card = load_laboratory(store, laboratory)
    chosen = load_detector_card(store, detector or card.detector)
    refuse_other_detector(card, chosen)
    newest = load_detector_card(store, on_damage=tell)
    if tell and detector is None and newest.name != chosen.name:
        tell(
            f"laboratory {laboratory} is screened with its own detector {chosen.name}, though "
            f"{newest.name} is newer: to use that one, commission the laboratory again with "
            f"--detector {newest.name}"
        )
    return chosen, card


def refuse_other_detector(laboratory: LaboratoryCard, detector: DetectorCard) -> None:
    """Raise StoreError if a laboratory was learned with another detector."""
    if laboratory.detector_digest != detector.digest:
        raise StoreError(
            f"laboratory {laboratory.name} was commissioned with detector {laboratory.detector}, "
            f"not with {detector.name}: give --detector {laboratory.detector}, or commission the "
            f"laboratory again with --detector {detector.name}"
        )


def save_laboratory(store: Store, card: LaboratoryCard, content: bytes) -> None:
    """Write a version; StoreError if another run has written it meanwhile."""
    with records.once(
        f"{card.label} was written by another run meanwhile: run the command again, and it will "
        "build on it"
    ):
        records.save_described(
            store, content, card, *card.folder, file="laboratory.safetensors", card_file="card.json"
        )


def load_laboratory_arrays(store: Store, card: LaboratoryCard) -> records.Arrays:
    """Load the arrays of a version and verify their digest."""
    return records.load_described(store, card, *card.folder, "laboratory.safetensors")


def save_night(store: Store, laboratory: str, content: bytes) -> str:
    """Write a night's contribution to a laboratory, and return its digest."""
    digest = digest_of(content)
    path = (FOLDER, laboratory, NIGHTS, f"{digest}.safetensors")
    if not store.exists(*path):
        store.write_bytes(content, *path)
    return digest


def load_night(store: Store, laboratory: str, night: LaboratoryNight) -> records.Arrays:
    """Load a night's contribution to a laboratory and verify its digest."""
    path = (FOLDER, laboratory, NIGHTS, f"{night.digest}.safetensors")
    what = f"what night {night.batch} added to laboratory {laboratory}"
    content = records.read_verified(store, path, night.digest, what, remedy="")
    return records.arrays_from_bytes(content)


def images_of_night(store: Store, model: str, night: LaboratoryNight) -> frozenset[bytes]:
    """Collect the sha256 digests of the images of a night, from its features."""
    return images_of_batch(store, model, manifests.load_batch(store, night.batch, night.attempt))


def images_of_batch(store: Store, model: str, batch: manifests.Batch) -> frozenset[bytes]:
    """Collect the sha256 digests of the images of a batch that have features."""
    under = tunings.features_of(store, batch, model)
    block = features.read_block(store, under, batch.key, 0, batch.rows, taps=False)
    return frozenset(row.tobytes() for row in block.image_id[block.status == features.SCORED])


def images_of_laboratory(store: Store, card: LaboratoryCard) -> frozenset[bytes]:
    """Collect the sha256 digests of the images of a laboratory's nights, from their features."""
    digests = [images_of_night(store, card.model, night) for night in card.nights]
    return frozenset[bytes]().union(*digests)


def borrow(
    store: Store, into: Store, detector: DetectorCard, laboratory: LaboratoryCard | None
) -> None:
    """Copy all that screening needs, unchanged: a detector, its model, and a laboratory if any."""
    folders: list[tuple[str, ...]] = [
        ("models", load_model_of(store, detector).name),
        ("detectors", detector.name),
    ]
    if laboratory is not None:
        folders.append(laboratory.folder)
        for path in tunings.files_of_laboratory(store, laboratory.model, laboratory.name):
            into.write_bytes(store.read_bytes(*path), *path)
    for parts in folders:
        copy_described(store, into, *parts)
