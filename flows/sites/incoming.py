"""Check a file from another store against this one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.linalg import LinAlgError

from flows.jobs.verified import load_fitted_detector
from storage.arrays import Arrays, arrays_to_bytes
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard, list_detectors
from storage.models.headers import refuse_taken_name
from storage.models.sites import SiteCard
from storage.models.statistics import Contribution, Lineage, latest_statistics, load_moments
from storage.models.transfers import Transfer
from storage.store import Store, StoreError, digest_of
from tasks.counting.interpretation import KnownRates
from tasks.detector.detector import fit_gaussians
from tasks.detector.moments import ClassStatistics, merge_statistics
from tasks.detector.slides.groups import GroupStatistics
from tasks.sites.bounds import UnfitError
from tasks.sites.foreign_sites import checked_night, checked_site, with_detector
from tasks.sites.foreign_statistics import checked_statistics, fingerprints
from tasks.types import below

NOTHING = "nothing was imported"


@dataclass(frozen=True)
class Part:
    """The checked contribution of another store's batch, and its bytes to keep."""

    contribution: Contribution
    statistics: ClassStatistics
    content: bytes


def local_statistics(store: Store, card: ModelCard) -> Lineage:
    """Load the newest statistics of a model, with which imported data are compared.

    Raises:
        StoreError: they have no batch of this store, or no detector was made from them yet.
    """
    latest = latest_statistics(store, card.name)
    detectors = list_detectors(store, on_damage=lambda _: None)
    if (
        latest is None
        or not latest.own
        or all(each.model_digest != card.digest for each in detectors)
    ):
        raise StoreError(
            f"{store.url} has no batch and detector of its own for model {card.name}, and "
            "imported data are compared with these: fit a batch of this store first"
        )
    return latest


def checked_parts(
    store: Store, header: Transfer, arrays: Arrays, card: ModelCard, latest: Lineage
) -> list[Part]:
    """Check the contribution of each batch in a file that is not in the statistics yet.

    Raises:
        StoreError: a field is beyond its limit, a name is taken, the same sums exist under another
            name, or no detector could be fitted with them.
    """
    numbers = {str(number) for number in range(len(header.contributions))}
    if other := sorted(name for name in arrays if name.split("/")[0] not in numbers):
        raise StoreError(f"array {other[0]!r} is of no batch in the file's header: {NOTHING}")
    local = ClassStatistics.from_arrays(load_moments(store, latest))
    there = {each.manifest_digest for each in latest.contributions}
    seen = {each.foreign: each.batch for each in latest.contributions if each.foreign}
    slides = fingerprints(local.slides) if local.slides else set[bytes]()
    parts = []
    for number, each in enumerate(header.contributions):
        if each.manifest_digest in there:
            continue
        refuse_taken_name(each, latest.contributions, store.names("batches"))
        mine = below(str(number), arrays)
        try:
            found = checked_contribution(each, mine, card, local)
        except StoreError as error:
            raise StoreError(f"{error}: {NOTHING}") from None
        content = arrays_to_bytes(mine)
        digest = digest_of(content)
        if digest in seen:
            raise StoreError(
                f"batch {each.batch} has the sums of batch {seen[digest]}, and a batch counts "
                f"once: {NOTHING}"
            )
        assert found.slides is not None
        slides |= _new_slides(each.batch, found.slides, slides)
        seen[digest] = each.batch
        parts.append(Part(each.model_copy(update={"foreign": digest}), found, content))
    merged_parts(local, parts)
    return parts


def checked_contribution(
    given: Contribution, arrays: Arrays, card: ModelCard, local: ClassStatistics
) -> ClassStatistics:
    """Check the contribution of another store's batch; StoreError names a field beyond its limit.

    It is compared with the statistics fitted here, which are ``local``.
    """
    try:
        return checked_statistics("arrays", arrays, card.classes, given.batch, given.images, local)
    except UnfitError as error:
        raise StoreError(f"batch {given.batch}: {error}") from None


def _new_slides(batch: str, found: GroupStatistics, known: set[bytes]) -> set[bytes]:
    """Return the fingerprints of a batch's slides; StoreError if some exist already."""
    mine = fingerprints(found)
    if twice := len(mine & known):
        raise StoreError(
            f"batch {batch} has cells that are in the statistics already ({twice:,} of "
            f"{len(mine):,} means of its slides are the same), and a cell counts once: {NOTHING}"
        )
    return mine


def merged_parts(before: ClassStatistics, parts: Sequence[Part]) -> ClassStatistics:
    """Merge batches of another store into the statistics, and check that a detector can be fitted.

    Raises:
        StoreError: no detector can be fitted to the sums.
    """
    total = before
    for part in parts:
        total = merge_statistics(total, part.statistics)
    try:
        if not total.n.all():
            raise ValueError("a class would have no image")
        fit_gaussians(total)
    except (ValueError, LinAlgError) as error:
        raise StoreError(
            f"no detector can be fitted with the file's statistics ({error}): {NOTHING}"
        ) from None
    return total


def checked_arrays(
    store: Store, card: SiteCard, detector: DetectorCard, arrays: Arrays
) -> tuple[bytes, list[bytes]]:
    """Check the arrays of a site and of its nights, and return the bytes to keep of each.

    Raises:
        StoreError: a field is beyond its limit.
    """
    fitted = load_fitted_detector(store, detector)
    population = fitted.own
    if population is None:
        raise StoreError(f"detector {detector.name} knows of no slides: {NOTHING}")
    theirs = None
    if card.adaptation is not None and card.adaptation.statistics and card.adaptation.accepted:
        if fitted.witnesses is None:
            raise StoreError(f"detector {detector.name} hears the network alone: {NOTHING}")
        theirs = fitted.witnesses.discriminant
    places = {"site", *(f"night/{number}" for number in range(len(card.nights)))}
    for name in sorted(arrays):
        parts = name.split("/")
        if "/".join(parts[:2] if parts[0] == "night" else parts[:1]) not in places:
            raise StoreError(f"array {name!r} is of no night of the site: {NOTHING}")
    where = f"site {card.name}"
    try:
        normal = with_detector(below("site", arrays), population)
        checked_site(normal, population, counting=card.counting is not None, discriminant=theirs)
        _same_rates(card, normal)
        nights = []
        for number, night in enumerate(card.nights):
            where = f"night {night.batch}"
            mine = below(f"night/{number}", arrays)
            batches = (night.batch, f"{night.batch}~{night.attempt}")
            checked_night("arrays", mine, population, batches, night.slides, night.cells)
            nights.append(arrays_to_bytes(mine))
    except UnfitError as error:
        raise StoreError(f"{where}: {error}: {NOTHING}") from None
    return arrays_to_bytes(normal), nights


def _same_rates(card: SiteCard, arrays: Arrays) -> None:
    """Compare the error rates on the card with those in the arrays, which decide calls."""
    if card.counting is None:
        return
    rates = KnownRates.from_arrays(below("error_rates", arrays))
    for name in ("counting", "dense"):
        told, kept = getattr(card.counting, name), getattr(rates, name)
        pairs = [(told.log_odds, kept.log_odds)]
        for card_rate, rate in ((told.false_positives, kept.false), (told.sensitivity, kept.found)):
            figures = ("mean", "low", "high", "deviation", "slides", "cells")
            pairs += [(getattr(card_rate, figure), getattr(rate, figure)) for figure in figures]
        if not all(_is_close(*pair) for pair in pairs):
            raise UnfitError(f"error_rates/{name} is not what the card's counting says of it")


def _is_close(told: float, kept: float) -> bool:
    """Compare a figure on a card, which may be an integer of any length, with an array's."""
    try:
        return math.isclose(told, kept, rel_tol=1e-9, abs_tol=1e-12)
    except OverflowError:
        return False
