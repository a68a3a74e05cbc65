"""What `fit` and `screen` have in common: freezing a batch and extracting its shards."""

from collections.abc import Iterator
from datetime import date

from distributed import Client
from prefect.logging import get_run_logger

from flows.cluster import run_in_order
from flows.settings import Settings
from storage.batches import Batch, find_batch, freeze_batch
from storage.features import create_features
from storage.models import ModelCard
from storage.records import now
from storage.store import Store, StoreError
from tasks.shard import ShardJob, ShardResult, run_shard
from tasks.sources import list_images


def start_or_resume(
    settings: Settings,
    name: str,
    images: str,
    classes: list[str],
    *,
    limit: int | None,
    batch_date: date | None,
) -> Batch:
    """Freeze the manifest of a new batch, or go on with the one that was frozen before.

    Raises:
        StoreError: a batch of this name was started from other images.
        SourceError: the images cannot be listed.
    """
    store = Store(settings.store)
    started_at = now()
    batch = find_batch(store, name)
    if batch is None:
        manifest = list_images(images, classes=classes, limit=limit)
        return freeze_batch(
            store,
            name,
            manifest,
            images=images,
            limit=limit,
            shard_rows=settings.shard_rows,
            batch_date=batch_date or started_at.date(),
            started_at=started_at,
        )
    if (batch.images, batch.limit) != (images, limit):
        raise StoreError(
            f"batch {name} was started on {batch.started_at:%Y-%m-%d %H:%M} from {batch.images} "
            f"(limit {batch.limit}): give the same --images and --limit to go on with it, or "
            "another --batch"
        )
    if batch_date not in (None, batch.batch_date):
        raise StoreError(
            f"batch {name} belongs to {batch.batch_date}, not to {batch_date}: choose another "
            "--batch for another day"
        )
    get_run_logger().info("batch %s goes on with the %d images frozen", name, batch.rows)
    return batch


def run_shards(
    client: Client, store: Store, batch: Batch, card: ModelCard, jobs: list[ShardJob], title: str
) -> Iterator[ShardResult]:
    """Preallocate the batch's features and run its shards, in order."""
    create_features(
        store,
        card.name,
        batch.name,
        rows=batch.rows,
        shard_rows=batch.shard_rows,
        tap_widths=card.tap_widths,
        classes=len(card.classes),
        digests={"manifest": batch.manifest_digest, "model": card.digest},
    )
    yield from run_in_order(client, run_shard, jobs, title=title)
