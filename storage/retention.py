"""Find files that are old enough to be removed from a store, and remove them.

Only features, which can be computed again, and reports are. Each kind of files says which features
it needs, and which files go with a report (`storage.kinds`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

from storage.batches import ledger, manifests
from storage.kinds import kinds
from storage.models import classifiers
from storage.records import Tell, read_readable
from storage.store import Store


@dataclass(frozen=True)
class Removable:
    """Files of a batch that may be removed: ``what`` describes them to a person."""

    batch: manifests.Batch
    what: str
    paths: tuple[tuple[str, ...], ...]


def expired_features(
    store: Store, before: datetime, only: str | None = None, on_damage: Tell | None = None
) -> Iterator[Removable]:
    """Find features that no kind of files needs, of batches published before a time.

    ``only`` names one batch. If a record that decides this is damaged, the features stay.
    """
    models = [card.name for card in classifiers.list_models(store, on_damage)]

    def of_model(model: str) -> list[Removable]:
        needed = {batch for kind in kinds() for batch in kind.needed(store, model)}

        def of_batch(path: str) -> Removable | None:
            folder, _, name = path.partition("/")
            batch = manifests.load_batch_of_key(store, name.removesuffix(".zarr"))
            seals = [seal for seal in ledger.list_seals(store, batch) if seal.model == model]
            published = bool(seals) and seals[-1].scored_at < before
            if not published or (batch.name, batch.attempt) in needed:
                return None
            return Removable(batch, f"features under {model}", (("features", folder, name),))

        names = [
            f"{folder}/{name}"
            for folder in store.names("features")
            if classifiers.model_of(folder) == model
            for name in store.names("features", folder)
            if only in (None, name.removesuffix(".zarr").partition("~")[0])
        ]
        return [removable for removable in read_readable(of_batch, names, on_damage) if removable]

    for removables in read_readable(of_model, models, on_damage):
        yield from removables


def expired_reports(
    store: Store, before: date, only: str | None = None, on_damage: Tell | None = None
) -> Iterator[Removable]:
    """Find the reports of batches before a date, and the files that go with them."""
    batches = {batch.name: batch for batch in manifests.list_batches(store, on_damage)}

    def of_batch(name: str) -> Removable | None:
        batch = batches[name]
        if only not in (None, name) or batch.batch_date >= before:
            return None
        if not ledger.list_seals(store, batch):  # an attempt that will replace the published one
            return None
        # The page first: where it is left, no report may be lost.
        paths = [path for kind in kinds()[::-1] for path in kind.expiring(name, batch.batch_date)]
        there = tuple(path for path in paths if store.exists(*path))
        return Removable(batch, "report and page", there) if there else None

    yield from (removable for removable in read_readable(of_batch, batches, on_damage) if removable)


def newest_record(store: Store, until: datetime) -> datetime | None:
    """Return when the newest readable record was written; those after ``until`` are wrong."""
    moments: list[datetime] = []
    for batch in manifests.list_batches(store, lambda _: None):
        moments.append(batch.started_at)
        moments += [seal.scored_at for seal in ledger.list_seals(store, batch, lambda _: None)]
    return max((moment for moment in moments if moment <= until), default=None)
