"""Keep each laboratory's own normal: ``sites/<site>/<version>/{site.safetensors, card.json}``.

A version is written once. Each night's contribution is in ``sites/<site>/nights/`` under its
digest: versions share it, and it can be taken out again exactly.
"""

from storage.arrays import Arrays, arrays_from_bytes
from storage.batches.features import SCORED, read_block
from storage.batches.manifests import Batch, load_batch
from storage.models.detectors import CountingCard, DetectorCard, load_detector_card
from storage.models.statistics import version_name
from storage.records import (
    Card,
    Entry,
    Tell,
    load_described,
    once,
    read_readable,
    read_verified,
    save_described,
)
from storage.store import Store, StoreError, check_name, digest_of, which

FOLDER = "sites"
NIGHTS = "nights"
ALL, NONE = "all", "none"  # of a night's slides that are known to be negative


class SiteNight(Entry):
    """A night of a site: a batch, and the digest of the file with its contribution.

    ``negative`` names the slides and patients known to be negative, or is "all".
    """

    batch: str
    attempt: int
    manifest_digest: str
    slides: int
    cells: int
    digest: str
    negative: tuple[str, ...] = ()


class AdaptationCard(Entry):
    """The adaptation of a diagnosis by labelled cells: ``scale`` and ``bias`` of its log-odds.

    They are those of the site's own discriminant if the ``statistics`` were also adapted.

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
    accuracy_before: float
    accuracy_after: float
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


class SiteCard(Card):
    """The card of a version of a site: its origin and its error rates.

    ``false_alarms`` maps levels to the share of ordinary cells called abnormal, a mean over slides
    that were each left out; empty if no slide could be left out. ``counting`` has the site's own
    error rates at the detector's thresholds; None without slides known to be negative.
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
    nights: list[SiteNight]
    slides: int
    cells: int
    calibrating_slides: int
    false_alarms: dict[str, float]
    warnings: list[str]
    counting: CountingCard | None = None
    adaptation: AdaptationCard | None = None

    @property
    def label(self) -> str:
        """Return the site and its version as reports name them, e.g. ``kampala/v0003``."""
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

    def night(self, batch: str) -> SiteNight | None:
        """Find a batch among the nights, or None."""
        return next((night for night in self.nights if night.batch == batch), None)


def list_sites(store: Store, on_damage: Tell | None = None) -> list[SiteCard]:
    """List the newest version of every site, by name; see `read_readable` for damaged ones."""
    names = [name for name in store.names(FOLDER) if site_versions(store, name)]
    return read_readable(lambda name: load_site(store, name), names, on_damage)


def site_versions(store: Store, name: str) -> list[int]:
    """List the numbers of a site's versions, oldest first."""
    folders = store.folders(FOLDER, name, having="card.json")
    return sorted(int(folder.removeprefix("v")) for folder in folders)


def find_site(store: Store, name: str) -> SiteCard | None:
    """Load the card of a site's newest version; None if the site was never commissioned."""
    check_name("site", name)
    versions = site_versions(store, name)
    return load_site_version(store, name, versions[-1]) if versions else None


def load_site(store: Store, name: str) -> SiteCard:
    """Load the card of a site's newest version; StoreError lists the existing sites."""
    found = find_site(store, name)
    if found is None:
        have = [each for each in store.names(FOLDER) if site_versions(store, each)]
        raise StoreError(
            f"no site {name!r} in {store.url}; "
            + (which(name, have) if have else "make one with: slidewatch commission")
        )
    return found


def load_site_version(store: Store, name: str, version: int) -> SiteCard:
    """Load the card of one version of a site."""
    return SiteCard.read(store, FOLDER, name, version_name(version), "card.json")


def load_site_of(store: Store, label: str) -> SiteCard:
    """Load the card of the version that a report names, e.g. ``kampala/v0003``."""
    name, _, version = label.partition("/v")
    return load_site_version(store, name, int(version))


def detector_at(
    store: Store, detector: str | None, site: str | None, tell: Tell | None = None
) -> tuple[DetectorCard, SiteCard | None]:
    """Load the detector to screen with, and the site, if any.

    By default the detector is the site's, or the newest without a site. ``tell`` is called with a
    message for each damaged detector, and if one is newer than the site's.

    Raises:
        StoreError: one of them is missing or damaged, or the site belongs to another detector.
    """
    if site is None:
        return load_detector_card(store, detector, on_damage=tell), None
    card = load_site(store, site)
    found = load_detector_card(store, detector or card.detector)
    refuse_other_detector(card, found)
    newest = load_detector_card(store, on_damage=tell)
    if tell and detector is None and newest.name != found.name:
        tell(
            f"site {site} is screened with its own detector {found.name}, though {newest.name} is "
            f"newer: to use that one, commission the site again with --detector {newest.name}"
        )
    return found, card


def refuse_other_detector(site: SiteCard, detector: DetectorCard) -> None:
    """Raise StoreError if a site was learned with another detector."""
    if site.detector_digest != detector.digest:
        raise StoreError(
            f"site {site.name} was commissioned with detector {site.detector}, not with "
            f"{detector.name}: give --detector {site.detector}, or commission the site again with "
            f"--detector {detector.name}"
        )


def save_site(store: Store, card: SiteCard, content: bytes) -> None:
    """Write a version; StoreError if another run has written it meanwhile."""
    with once(
        f"{card.label} was written by another run meanwhile: run the command again, and it will "
        "build on it"
    ):
        save_described(
            store, content, card, *card.folder, file="site.safetensors", card_file="card.json"
        )


def load_site_arrays(store: Store, card: SiteCard) -> Arrays:
    """Load the arrays of a version and verify their digest."""
    return arrays_from_bytes(load_described(store, card, *card.folder, "site.safetensors"))


def save_night(store: Store, site: str, content: bytes) -> str:
    """Write a night's contribution to a site, and return its digest."""
    digest = digest_of(content)
    path = (FOLDER, site, NIGHTS, f"{digest}.safetensors")
    if not store.exists(*path):
        store.write_bytes(content, *path)
    return digest


def load_night(store: Store, site: str, night: SiteNight) -> Arrays:
    """Load a night's contribution to a site and verify its digest."""
    path = (FOLDER, site, NIGHTS, f"{night.digest}.safetensors")
    what = f"what night {night.batch} added to site {site}"
    content = read_verified(store, path, night.digest, what, remedy="")
    return arrays_from_bytes(content)


def images_of_night(store: Store, model: str, night: SiteNight) -> frozenset[bytes]:
    """Collect the sha256 digests of the images of a night, from its features."""
    return images_of_batch(store, model, load_batch(store, night.batch, night.attempt))


def images_of_batch(store: Store, model: str, batch: Batch) -> frozenset[bytes]:
    """Collect the sha256 digests of the images of a batch that have features."""
    block = read_block(store, model, batch.key, 0, batch.rows, taps=False)
    return frozenset(row.tobytes() for row in block.image_id[block.status == SCORED])


def images_of_site(store: Store, card: SiteCard) -> frozenset[bytes]:
    """Collect the sha256 digests of the images of a site's nights, from their features."""
    found = [images_of_night(store, card.model, night) for night in card.nights]
    return frozenset[bytes]().union(*found)
