"""Run `site export` and `site import`: statistics travel between stores, and cells do not."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from flows.cluster.client import open_client
from flows.counting.errors import errors_of_version
from flows.fit import FitOutcome, fitted_outcome
from flows.jobs.statistics import RowsJob, rows_statistics
from flows.options.described import described
from flows.options.tools import SiteExport, SiteImport
from flows.outcome import Outcome, table
from flows.settings import Settings
from flows.sites.jobs import Added
from flows.sites.outcome import SiteOutcome, site_outcome
from flows.sites.versions import site_lease
from flows.stages.statistics import (
    ROWS_A_JOB,
    save_version,
    statistics_lease,
    statistics_with_slides,
)
from storage.arrays import Arrays, arrays_to_bytes
from storage.models.classifiers import ModelCard, list_models, load_card
from storage.models.contributions import contributed
from storage.models.detectors import list_detectors
from storage.models.sites import (
    ALL,
    SiteCard,
    find_site,
    load_night,
    load_site,
    load_site_arrays,
    save_night,
    save_site,
)
from storage.models.statistics import (
    Contribution,
    Lineage,
    latest_statistics,
    load_foreign,
    save_foreign,
    version_name,
)
from storage.models.transfers import Transfer, read_transfer, site_of, write_transfer
from storage.records import now
from storage.store import Store, StoreError
from tasks.counting.error_rates import ErrorCounts
from tasks.detector.moments import ClassStatistics, merge_statistics, merge_tree
from tasks.sites.sharing import (
    of_batch,
    pseudonym,
    shareable,
    shareable_errors,
    shareable_groups,
)
from tasks.types import below, nested

SAID_OF_ROWS = ("without_patients", "without_slides", "repeated", "repeated_held_out")


class ExportOutcome(Outcome):
    """The file that was written, and what is in it."""

    file: str
    what: str
    batches: int
    cells: int

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        held = f"{self.batches} batches, {self.cells:,} cells, as sums: no image, no single cell"
        return f"{self.what} written to {self.file}\n{table([('holds', held)])}"


@described(SiteExport)
def export(
    to: str, site: str | None = None, model: str | None = None, settings: Settings | None = None
) -> ExportOutcome:
    """Write a site, or a model's class statistics, into a file for another store: no images.

    Raises:
        StoreError: they do not exist, or cannot be shared without telling a single cell.
    """
    settings = settings or Settings()
    store = Store(settings.store)
    if site is not None:
        card = load_site(store, site)
        write_transfer(to, *_site_transfer(store, card))
        what = f"site {card.label}"
        return ExportOutcome(file=to, what=what, batches=len(card.nights), cells=card.cells)
    assert model is not None
    of_model = load_card(store, model)
    latest = latest_statistics(store, model)
    if latest is None:
        raise StoreError(f"model {model} has no statistics yet: slidewatch fit makes them")
    parts = list(_shared(store, of_model, latest))
    header = Transfer(
        kind="statistics",
        model=model,
        model_digest=of_model.digest,
        digest="",
        contributions=tuple(part.contribution for part in parts),
    )
    arrays: Arrays = {}
    for number, part in enumerate(parts):
        arrays |= nested(str(number), part.statistics.to_arrays())
    write_transfer(to, header, arrays)
    return ExportOutcome(
        file=to,
        what=f"statistics {version_name(latest.version)} of {model}",
        batches=len(parts),
        cells=sum(part.contribution.images for part in parts),
    )


@dataclass(frozen=True)
class _Shared:
    """The contribution of a batch to the statistics, fit to leave the store."""

    contribution: Contribution
    statistics: ClassStatistics


def _shared(store: Store, card: ModelCard, lineage: Lineage) -> Iterator[_Shared]:
    """Compute what each batch has given, and pass on what other stores gave."""
    for each in lineage.contributions:
        if each.foreign is not None:
            found = ClassStatistics.from_arrays(load_foreign(store, card.name, each))
            yield _Shared(each.model_copy(update={"foreign": None}), found)
            continue
        rows = contributed(store, card, each)
        statistics = merge_tree(
            rows_statistics(RowsJob(store, card, rows.take(np.arange(start, stop))))
            for start in range(0, len(rows), ROWS_A_JOB)
            for stop in (min(start + ROWS_A_JOB, len(rows)),)
        )
        name = f"{each.batch}-{each.manifest_digest[:8]}"
        try:
            found = shareable(statistics)
        except ValueError as error:
            raise StoreError(f"batch {each.batch} cannot be shared: {error}") from None
        assert found.slides is not None
        found = ClassStatistics(found.taps, of_batch(found.slides, name))
        left = dict.fromkeys(SAID_OF_ROWS, ())
        told = {"batch": name, "attempt": 1, **left}
        yield _Shared(each.model_copy(update=told), found)


def _site_transfer(store: Store, card: SiteCard) -> tuple[Transfer, Arrays]:
    """Make a file of a site: its normal, and what its nights added, without single cells."""
    arrays, nights = nested("site", load_site_arrays(store, card)), []
    for number, night in enumerate(card.nights):
        own = Added.from_arrays(load_night(store, card.name, night))
        told = Added(shareable_groups(own.statistics), errors=shareable_errors(own.errors))
        arrays |= nested(f"night/{number}", told.to_arrays())
        nights.append(night.model_copy(update={"negative": _pseudonyms(night.negative)}))
    header = Transfer(
        kind="site",
        model=card.model,
        model_digest=card.model_digest,
        digest="",
        site=card.model_copy(update={"nights": nights}).model_dump(mode="json"),
    )
    return header, arrays


def _pseudonyms(negative: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name if name == ALL else pseudonym(name) for name in negative)


@described(SiteImport)
def import_file(from_file: str, settings: Settings | None = None) -> FitOutcome | SiteOutcome:
    """Take a site, or class statistics, from another store's file; each batch counts once.

    Raises:
        StoreError: the file is damaged, or of a model or detector that is not in this store.
    """
    settings = settings or Settings()
    store = Store(settings.store)
    header, arrays = read_transfer(from_file)
    card = next((c for c in list_models(store) if c.digest == header.model_digest), None)
    if card is None:
        raise StoreError(
            f"{from_file} is of model {header.model} (sha256 {header.model_digest[:12]}), which is "
            f"not in {store.url}: statistics of different models cannot be merged"
        )
    if header.kind == "site":
        return _import_site(store, from_file, header, arrays)
    return _import_statistics(settings, store, card, header, arrays)


def _import_statistics(
    settings: Settings, store: Store, card: ModelCard, header: Transfer, arrays: Arrays
) -> FitOutcome:
    with open_client(settings) as client, statistics_lease(store, card) as held:
        store = held.store
        latest = latest_statistics(store, card.name)
        known = latest.contributions if latest else []
        total = (
            statistics_with_slides(client, store, card, latest)
            if latest
            else ClassStatistics.empty(card.tap_widths, len(card.classes))
        )
        errors = errors_of_version(store, card, latest) if latest else ErrorCounts.empty()
        there, new = {each.manifest_digest for each in known}, []
        for number, each in enumerate(header.contributions):
            if each.manifest_digest in there:
                continue
            part = below(str(number), arrays)
            total = merge_statistics(total, ClassStatistics.from_arrays(part))
            digest = save_foreign(store, card.name, arrays_to_bytes(part))
            new.append(each.model_copy(update={"foreign": digest}))
        if not new and latest is not None:
            changed = "its batches are in the statistics already: they count once"
            return fitted_outcome(client, settings, store, card, latest, changed)
        held.check()
        cells = sum(each.images for each in new)
        lineage = save_version(store, card, latest, total, errors, "import", [*known, *new])
        changed = f"{len(new)} batches of another store: {cells:,} images added"
        return fitted_outcome(client, settings, store, card, lineage, changed)


def _import_site(store: Store, path: str, header: Transfer, arrays: Arrays) -> SiteOutcome:
    try:
        card = site_of(header)
    except ValidationError:
        raise StoreError(f"{path} carries no site that this slidewatch can read") from None
    detectors = list_detectors(store, on_damage=lambda _: None)
    if all(detector.digest != card.detector_digest for detector in detectors):
        raise StoreError(
            f"site {card.name} was learned with detector {card.detector}, which is not in "
            f"{store.url}: copy detectors/{card.detector} there first"
        )
    with site_lease(store, card.name) as held:
        store = held.store
        if find_site(store, card.name):
            raise StoreError(f"there is a site {card.name} in {store.url} already")
        nights = [
            night.model_copy(
                update={
                    "digest": save_night(
                        store, card.name, arrays_to_bytes(below(f"night/{number}", arrays))
                    ),
                    "imported": True,
                }
            )
            for number, night in enumerate(card.nights)
        ]
        made = card.model_copy(
            update={"nights": nights, "operation": "import", "created_at": now()}
        )
        held.check()
        save_site(store, made, arrays_to_bytes(below("site", arrays)))
    return site_outcome(store, made, f"site {card.name} taken from {path}")
