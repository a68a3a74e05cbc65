"""Freeze a batch and extract its shards, for `fit` and `screen`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.libraries import changed_since
from flows.jobs.shard import ShardJob, ShardResult, prepare_features, run_shard
from flows.monitoring import logs, telemetry
from flows.monitoring.console import tell, warn
from flows.settings import Settings
from storage import kinds, leases, records
from storage.batches import ledger, manifests
from storage.models.classifiers import ModelCard
from storage.store import Store, StoreError, check_name
from tasks.images import listing, sorted_rows

EARLIER = 8  # batches that are searched for images seen before


def lease_batch(store: Store, batch: str, *, wait: bool) -> AbstractContextManager[leases.Lease]:
    """Take the lease of a batch, or wait for it; HeldByOtherError names its holder."""
    check_name("batch", batch)
    return leases.lease(store, "batches", batch, wait=wait, on_wait=tell)


@dataclass(frozen=True)
class GivenImages:
    """The sources of a batch and the largest number of images; ``listed``, if they are already."""

    images: str | list[str]
    limit: int | None = None
    listed: sorted_rows.SortedRows | None = None


def start_or_resume(
    store: Store,
    settings: Settings,
    name: str,
    given: GivenImages,
    classes: list[str],
    *,
    batch_date: date | None = None,
    force: bool = False,
) -> manifests.Batch:
    """Freeze the manifest of a new batch, or resume a frozen batch.

    A batch with ``force``, or without images, starts again; old results stay until replaced.
    StoreError if it was started from other images; SourceError if the images cannot be listed.
    """
    images, limit, listed = listing.as_given(given.images), given.limit, given.listed
    refuse_among_others(store, images)
    batch, started_at = manifests.find_batch(store, name), records.now()
    if batch and batch_date not in (None, batch.batch_date):
        raise StoreError(
            f"batch {name} belongs to {batch.batch_date}, not to {batch_date}: choose another "
            "--batch for another day"
        )
    if batch is None or force or not batch.rows:
        others = manifests.list_batches(store, on_damage=warn)
        plan = manifests.BatchPlan(
            name=name,
            images=images if isinstance(images, str) else tuple(images),
            limit=limit,
            shard_rows=settings.shard_rows,
            batch_date=batch_date or (batch.batch_date if batch else started_at.date()),
            started_at=started_at,
            attempt=batch.attempt + 1 if batch else 1,
            # A forced batch is to be computed again.
            earlier=() if force else tuple(b.key for b in others[-EARLIER:]),
            sequence=1 + max((b.sequence for b in others), default=0),
        )
        if listed is None:
            listed = listing.sorted_images(
                images, classes=classes, limit=limit, trusted=store.holds, on_skip=warn
            )
        return manifests.freeze_batch(store, plan, listed.rows, listed.parts())
    refuse_other_images(store, batch, images, limit)
    manifests.verify_manifest(store, batch)
    logs.log(logging.INFO, f"batch {name} resumes with its {batch.rows:,} frozen images")
    return batch


def refuse_other_images(
    store: Store, batch: manifests.Batch, images: str | list[str], limit: int | None
) -> None:
    """Raise StoreError if a batch with images was started from other sources."""
    made = (kind.sources(store, batch.key) for kind in kinds.kinds())
    sources, most = next(filter(None, made), (batch.images, batch.limit))
    started = (listing.as_given(sources), most), (listing.as_given(batch.images), batch.limit)
    if batch.rows and (listing.as_given(images), limit) not in started:
        raise StoreError(
            f"batch {batch.name} was started on {batch.started_at:%Y-%m-%d %H:%M} from "
            f"{listing.named(sources)} (limit {most}): give the same --images and --limit "
            "to resume it, or choose another --batch"
        )


def refuse_among_others(store: Store, images: str | list[str]) -> None:
    """Raise StoreError if one of several sources is a manifest that reports refer to."""
    for source in images if isinstance(images, list) else []:
        if any(kind.owns(store, source) for kind in kinds.kinds()):
            raise StoreError(
                f"{source} is a manifest that slidewatch made, and its report names it: give it as "
                "the only --images of a batch"
            )


def warn_of_model(card: ModelCard) -> None:
    """Warn if a model was trained with another version of PyTorch."""
    for change in changed_since(card.versions, ["torch"]):
        warn(
            f"model {card.name} was trained with another PyTorch ({change}): its features may "
            "differ from those that were fitted; install the same, or evaluate it again"
        )


def _warn_of_versions(store: Store, batch: manifests.Batch, model: str) -> None:
    done = ledger.complete_shards(store, batch, model)
    first = next((shard for shard in batch.shards() if shard.number in done), None)
    record = ledger.read_shard_record(store, batch, model, first) if first else None
    made = record.versions if record else {}
    if changes := changed_since(made, made):
        warn(
            f"batch {batch.name} was begun with other libraries ({'; '.join(changes)}), and its "
            f"{len(done)} complete shards are kept: --force recomputes all of it"
        )


def run_shards(
    client: Client,
    store: Store,
    batch: manifests.Batch,
    card: ModelCard,
    jobs: Sequence[ShardJob],
    title: str,
) -> Iterator[ShardResult]:
    """Preallocate the batch's features, and yield the results of its shards, in order."""
    prepare_features(store, batch, card)
    _warn_of_versions(store, batch, card.features)

    def again(job: ShardJob) -> ShardJob:
        return replace(job, tries=job.tries + 1)

    for result in run_jobs(client, run_shard, jobs, title=title, again=again):
        telemetry.shard_done(result)
        yield result
