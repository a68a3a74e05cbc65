"""Check stored data of other stores again, because earlier versions checked less."""

from collections.abc import Iterator
from functools import partial

from flows.sites.incoming import NOTHING, checked_arrays, checked_contribution
from storage.arrays import Arrays
from storage.models.classifiers import ModelCard, list_models, load_card
from storage.models.detectors import load_detector_card
from storage.models.headers import check_contributions, check_site
from storage.models.sites import FOLDER, SiteCard, list_sites, load_night, load_site_arrays
from storage.models.statistics import (
    FOREIGN,
    Contribution,
    list_statistics,
    load_foreign,
    load_moments,
)
from storage.store import Store, StoreError
from storage.verification import Check
from tasks.detector.moments import ClassStatistics
from tasks.sites.foreign_sites import without_detector
from tasks.types import nested


def _left_out(_: str) -> None:
    """Ignore damage, which other checks report."""


def foreign_checks(store: Store) -> Iterator[Check]:
    """List the checks of all class statistics and sites that came from other stores."""
    for card in list_models(store, _left_out):
        versions = list_statistics(store, card.name, _left_out)
        if not versions or not any(each.foreign for each in versions[-1].contributions):
            continue
        own = [each for each in versions if len(each.own) == len(each.contributions)]
        try:
            moments = load_moments(store, [*versions[-1:], *own][-1])
        except StoreError:
            continue
        local = ClassStatistics.from_arrays(moments)
        for each in versions[-1].contributions:
            if each.foreign is not None:
                path = f"statistics/{card.name}/{FOREIGN}/{each.foreign}.safetensors"
                yield Check(path, partial(_contribution, store, card, each, local))
    for site in list_sites(store, _left_out):
        if site.imported:
            yield Check(f"{FOLDER}/{site.label}", partial(_site, store, site))


def _contribution(
    store: Store, card: ModelCard, given: Contribution, local: ClassStatistics
) -> None:
    arrays = load_foreign(store, card.name, given)
    try:
        check_contributions([given.model_copy(update={"foreign": None})])
        checked_contribution(given, arrays, card, local)
    except StoreError as error:
        raise _refused(error, f"--batch {given.batch} --model {card.name}") from None


def _site(store: Store, site: SiteCard) -> None:
    arrays: Arrays = nested("site", without_detector(load_site_arrays(store, site)))
    for number, night in enumerate(site.nights):
        arrays |= nested(f"night/{number}", load_night(store, site.name, night))
    detector = load_detector_card(store, site.detector)
    try:
        check_site(site, load_card(store, site.model), detector)
        checked_arrays(store, site, detector, arrays)
    except StoreError as error:
        raise _refused(error, f"--site {site.name}") from None


def _refused(error: StoreError, what: str) -> StoreError:
    reason = str(error).removesuffix(f": {NOTHING}")
    return StoreError(
        f"another store gave it, and it would not be imported today: {reason}: take it out with "
        f"slidewatch retract {what}"
    )
