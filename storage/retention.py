"""Find what may be removed from a store after a time, and remove it.

Models, statistics, detectors, sites, manifests, seals, reviews, what nights took and the row of
each batch in ``reports/batches`` are never removed: they are small, and what is kept names them.
Features can be computed again from the images, and are what a store is full of.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

from storage.batches.ledger import list_seals
from storage.batches.manifests import Batch, list_batches, load_batch_of_key
from storage.models.classifiers import list_models
from storage.models.sites import list_sites
from storage.models.statistics import latest_statistics
from storage.records import Tell, read_readable
from storage.reports.pages import page_path
from storage.reports.tables import FIELDS, IMAGES, PATIENTS, SLIDES, report_path
from storage.store import Store


@dataclass(frozen=True)
class Removable:
    """Files of a batch that may be removed: ``what`` they are for a person, and their paths."""

    batch: Batch
    what: str
    paths: tuple[tuple[str, ...], ...]


def expired_features(
    store: Store, before: datetime, only: str | None = None, on_damage: Tell | None = None
) -> Iterator[Removable]:
    """Find features of batches published before a time that neither statistics nor sites need.

    Features in the newest statistics are read again by every later fit and by retract, and those of
    a site's commissioned nights by its next version. Features of a batch without a report are those
    of a night that is not finished. ``only`` names one batch. Where a record is damaged that says
    which they are, they stay; see `read_readable`.
    """
    models = [card.name for card in list_models(store, on_damage)]

    def of_model(model: str) -> list[Removable]:
        latest = latest_statistics(store, model)
        fitted = {(c.batch, c.attempt) for c in latest.own} if latest else set()
        fitted |= {(n.batch, n.attempt) for s in list_sites(store) for n in s.commissioned_nights}

        def of_batch(name: str) -> Removable | None:
            batch = load_batch_of_key(store, name.removesuffix(".zarr"))
            seals = [seal for seal in list_seals(store, batch) if seal.model == model]
            published = bool(seals) and seals[-1].scored_at < before
            if not published or (batch.name, batch.attempt) in fitted:
                return None
            return Removable(batch, f"features under {model}", (("features", model, name),))

        names = [name for name in store.names("features", model) if only in (None, _batch_of(name))]
        return [found for found in read_readable(of_batch, names, on_damage) if found]

    for found in read_readable(of_model, models, on_damage):
        yield from found


def _batch_of(features: str) -> str:
    """Read the batch from the name of its features, which tells its attempt too."""
    return features.removesuffix(".zarr").partition("~")[0]


def expired_reports(
    store: Store, before: date, only: str | None = None, on_damage: Tell | None = None
) -> Iterator[Removable]:
    """Find reports of batches of days before a date, but for those on batches, and pages.

    See `read_readable` for damaged records.
    """
    batches = {batch.name: batch for batch in list_batches(store, on_damage)}

    def of_batch(name: str) -> Removable | None:
        batch = batches[name]
        if only not in (None, name) or batch.batch_date >= before:
            return None
        if not list_seals(store, batch):  # an attempt that is to replace what is published
            return None
        paths = (
            report_path(name, batch.batch_date, IMAGES),
            report_path(name, batch.batch_date, FIELDS),
            report_path(name, batch.batch_date, SLIDES),
            report_path(name, batch.batch_date, PATIENTS),
            page_path(name),
        )
        there = tuple(path for path in paths if store.exists(*path))
        return Removable(batch, "report and page", there) if there else None

    yield from (found for found in read_readable(of_batch, batches, on_damage) if found)


def newest_record(store: Store, until: datetime) -> datetime | None:
    """Find when the newest batch or seal was written; None where there is none.

    Records later than ``until`` are left out: a clock was wrong once, and they say nothing of the
    present one. Damaged records are left out, too.
    """

    def leave_out(_: str) -> None:
        pass

    moments: list[datetime] = []
    for batch in list_batches(store, leave_out):
        moments.append(batch.started_at)
        moments += [seal.scored_at for seal in list_seals(store, batch, leave_out)]
    return max((moment for moment in moments if moment <= until), default=None)


def size_of(store: Store, removable: Removable) -> int:
    """Measure how many bytes the files take."""
    return sum(int(store.fs.du(store.path(*path))) for path in removable.paths)


def remove(store: Store, removable: Removable) -> None:
    """Remove the files; the caller holds the lease of their batch."""
    for path in removable.paths:
        store.remove(*path)
