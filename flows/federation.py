"""Run `site export` and `site import`: statistics travel between stores, and cells do not."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flows.cluster.client import open_client
from flows.fit import FitOutcome, fitted_outcome
from flows.jobs.fitting.fitted_rows import RowsJob, rows_statistics
from flows.jobs.site_slides import Added
from flows.monitoring.console import warn
from flows.options.taking import takes
from flows.options.tools import SiteExport, SiteImport
from flows.outcome import Outcome, printable, table
from flows.settings import Settings
from flows.sites.description import Offer, SiteOutcome, site_outcome
from flows.sites.incoming import checked_arrays, checked_parts, local_statistics, merged_parts
from flows.sites.offers import offered_site, offered_statistics
from flows.sites.versions import screened_at, site_lease
from flows.stages.class_statistics import (
    ROWS_A_JOB,
    Fitting,
    refuse_damage,
    save_version,
    statistics_lease,
    totals,
)
from storage.arrays import Arrays, arrays_from_bytes
from storage.models.classifiers import ModelCard, list_models, load_card
from storage.models.contributions import contributed
from storage.models.detectors import list_detectors
from storage.models.headers import check_contributions, check_site
from storage.models.signatures import signer_of
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
from storage.models.transfers import (
    Transfer,
    pseudonym_key,
    read_transfer,
    site_of,
    transfer_bytes,
    write_transfer,
)
from storage.records import now
from storage.store import Store, StoreError, digest_of
from tasks.detector.moments import ClassStatistics, merge_tree
from tasks.sites.foreign_sites import without_detector
from tasks.sites.learning import SiteNormal
from tasks.sites.sharing import (
    of_batch,
    pseudonym,
    shareable,
    shareable_errors,
    shareable_groups,
    shareable_site,
)
from tasks.types import nested
from tasks.words import counted

SAID_OF_ROWS = ("without_patients", "without_slides", "repeated", "repeated_held_out")


class ExportOutcome(Outcome):
    """The file that was written, and its contents."""

    file: str
    what: str
    batches: int
    cells: int

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        held = f"{counted(self.batches, 'batch')}, {counted(self.cells, 'cell')}, as sums"
        held += ": no image, no single cell"
        return f"{self.what} written to {self.file}\n{table([('holds', held)])}"


@takes(SiteExport)
def export(options: SiteExport, settings: Settings) -> ExportOutcome:
    """The file says nothing of a single cell.

    Raises:
        StoreError: there is nothing to export, or it cannot be shared without a single cell.
    """
    store = Store(settings.store)
    if options.site is not None:
        card = load_site(store, options.site)
        write_transfer(options.to, *_site_transfer(store, card))
        what = f"site {card.label}"
        return ExportOutcome(file=options.to, what=what, batches=len(card.nights), cells=card.cells)
    assert options.model is not None
    of_model = load_card(store, options.model)
    latest = latest_statistics(store, options.model)
    if latest is None:
        raise StoreError(f"model {options.model} has no statistics yet: slidewatch fit makes them")
    parts = list(_shared(store, of_model, latest, pseudonym_key(store)))
    header = Transfer(
        kind="statistics",
        model=options.model,
        model_digest=of_model.digest,
        digest="",
        contributions=tuple(contribution for contribution, _ in parts),
    )
    arrays: Arrays = {}
    for number, (_, statistics) in enumerate(parts):
        arrays |= nested(str(number), statistics.to_arrays())
    write_transfer(options.to, header, arrays)
    return ExportOutcome(
        file=options.to,
        what=f"statistics {version_name(latest.version)} of {options.model}",
        batches=len(parts),
        cells=sum(contribution.images for contribution, _ in parts),
    )


def _shared(
    store: Store, card: ModelCard, lineage: Lineage, key: bytes
) -> Iterator[tuple[Contribution, ClassStatistics]]:
    """Compute what each batch has given, and pass on what other stores gave."""
    for each in lineage.contributions:
        if each.foreign is not None:
            found = ClassStatistics.from_arrays(load_foreign(store, card.name, each))
            yield each.model_copy(update={"foreign": None}), found
            continue
        rows = contributed(store, card, each)
        statistics = merge_tree(
            rows_statistics(RowsJob(store, card, rows.take(np.arange(start, stop))))
            for start in range(0, len(rows), ROWS_A_JOB)
            for stop in (min(start + ROWS_A_JOB, len(rows)),)
        )
        name = f"{each.batch}-{each.manifest_digest[:8]}"
        try:
            found = shareable(statistics, key)
        except ValueError as error:
            raise StoreError(f"batch {each.batch} cannot be shared: {error}") from None
        assert found.slides is not None
        found = ClassStatistics(found.taps, of_batch(found.slides, name))
        left = dict.fromkeys(SAID_OF_ROWS, ())
        told = {"batch": name, "attempt": 1, **left}
        yield each.model_copy(update=told), found


def _site_transfer(store: Store, card: SiteCard) -> tuple[Transfer, Arrays]:
    """Make a file of a site: its normal, and what its nights added, without single cells."""
    key, nights = pseudonym_key(store), []
    normal = load_site_arrays(store, card)
    # The laboratory that an imported site comes from has made it fit to be shared.
    ready = without_detector(normal) if card.imported else shareable_site(normal)
    arrays = nested("site", ready)
    for number, night in enumerate(card.nights):
        added = load_night(store, card.name, night)
        negative = night.negative
        if not night.imported:
            own = Added.from_arrays(added)
            errors = shareable_errors(own.errors, key)
            added = Added(shareable_groups(own.statistics, key), errors=errors).to_arrays()
            negative = tuple(n if n == ALL else pseudonym(n, key) for n in night.negative)
        arrays |= nested(f"night/{number}", added)
        nights.append(night.model_copy(update={"negative": negative}))
    header = Transfer(
        kind="site",
        model=card.model,
        model_digest=card.model_digest,
        digest="",
        site=card.model_copy(update={"nights": nights}).model_dump(mode="json"),
    )
    return header, arrays


@takes(SiteImport)
def import_file(options: SiteImport, settings: Settings) -> FitOutcome | SiteOutcome | Offer:
    """Every field of the file is checked before anything is written. Without ``accept`` nothing is
    written at all, and the outcome says what the file would change.

    Raises:
        StoreError: the file is damaged, a field of it is beyond its limit, it is of a model or
            detector that is not in this store, or it lacks a signature that the store asks for.
    """
    store = Store(settings.store)
    content = transfer_bytes(options.from_file)
    signer = signer_of(store, options.from_file, content)
    header, arrays = read_transfer(options.from_file, content)
    models = list_models(store, warn)
    card = next((each for each in models if each.digest == header.model_digest), None)
    if card is None:
        raise StoreError(
            f"{options.from_file} is of model {printable(header.model)} (sha256 "
            f"{printable(header.model_digest[:12])}), which is not in {store.url}: statistics of "
            "different models cannot be merged"
        )
    file = _File(options.from_file, header, arrays, signer)
    if header.kind == "site":
        return _import_site(store, file, card, options.accept)
    return _import_statistics(settings, store, file, card, options.accept)


@dataclass(frozen=True)
class _File:
    """A file from another store; ``signer`` is None where this store asks for no signature."""

    path: str
    header: Transfer
    arrays: Arrays
    signer: str | None

    @property
    def operation(self) -> str:
        """Say in a card how it came about."""
        return f"import signed by {self.signer}" if self.signer else "import"


def _import_statistics(
    settings: Settings, store: Store, file: _File, card: ModelCard, accept: bool
) -> FitOutcome | Offer:
    header, arrays = file.header, file.arrays
    check_contributions(header.contributions)
    latest = local_statistics(store, card)
    parts = checked_parts(store, header, arrays, card, latest)
    if parts and not accept:
        return offered_statistics(store, file.path, file.signer, card, latest, parts)
    with open_client(settings) as client, statistics_lease(store, card) as held:
        store = held.store
        to, found = Fitting(client, settings, store, card), local_statistics(store, card)
        if found.version != latest.version:
            latest, parts = found, checked_parts(store, header, arrays, card, found)
        if not parts:
            changed = "its batches are in the statistics already: they count once"
            return fitted_outcome(to, latest, changed)
        total, errors = totals(to, latest)
        total = merged_parts(total, parts)
        refuse_damage(to, latest.contributions)
        held.check()
        for part in parts:
            save_foreign(store, card.name, part.content)
        given = [*latest.contributions, *(part.contribution for part in parts)]
        lineage = save_version(to, latest, total, errors, file.operation, given)
        cells = sum(part.contribution.images for part in parts)
        batches, images = counted(len(parts), "batch"), counted(cells, "image")
        changed = f"{batches} of another store: {images} added"
        return fitted_outcome(to, lineage, changed)


def _import_site(store: Store, file: _File, model: ModelCard, accept: bool) -> SiteOutcome | Offer:
    card = site_of(file.header)
    detectors = list_detectors(store, on_damage=lambda _: None)
    # After a fit and its retraction, two detectors have the same bytes.
    same = {each.name: each for each in detectors if each.digest == card.detector_digest}
    detector = same.get(card.detector, next(iter(same.values()), None))
    if detector is None:
        raise StoreError(
            f"site {printable(card.name)} was learned with detector {printable(card.detector)}, "
            f"which is not in {store.url}: copy its folder into detectors/ there first"
        )
    check_site(card, model, detector)
    _refuse_known(store, card)
    normal, nights = checked_arrays(store, card, detector, file.arrays)
    if not accept:
        there = SiteNormal.from_arrays(arrays_from_bytes(normal))
        return offered_site(store, file.path, file.signer, card, model, detector, there)
    with site_lease(store, card.name) as held:
        store = held.store
        _refuse_known(store, card)
        held.check()
        taken = [
            night.model_copy(
                update={"digest": save_night(store, card.name, content), "imported": True}
            )
            for night, content in zip(card.nights, nights, strict=True)
        ]
        made = card.model_copy(
            update={
                "nights": taken,
                "operation": file.operation,
                "created_at": now(),
                "digest": digest_of(normal),
                "detector": detector.name,
            }
        )
        save_site(store, made, normal)
    return site_outcome(store, made, f"site {card.name} taken from {file.path}")


def _refuse_known(store: Store, card: SiteCard) -> None:
    """Raise StoreError where a site is here already, or reports name another one of its version."""
    known = find_site(store, card.name)
    if known is not None:
        out = f": take it out first, slidewatch retract --site {card.name}"
        raise StoreError(
            f"there is a site {card.name} in {store.url} already{out if known.imported else ''}"
        )
    screened = screened_at(store, card.name)
    named = [batch for batch, label in screened.items() if label == card.label]
    if named:
        raise StoreError(
            f"the report of batch {named[0]} names {card.label}, which was taken out: screen it "
            "again without --site, or import a later version"
        )
