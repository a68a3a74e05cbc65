"""Screening from a source to a published report, without Prefect and without earlier batches."""

from datetime import date

from distributed import Client

from flows.screen import extract_and_score, publish
from flows.settings import Settings
from storage.batches import Batch, freeze_batch
from storage.detectors import load_detector_card
from storage.models import load_card
from storage.records import now
from storage.store import Store
from tasks.sources import list_images

DAY = date(2026, 1, 1)


def freeze(settings: Settings, images: str, name: str, limit: int) -> Batch:
    """List images and freeze them as a batch; it names no earlier batch, so none is used again."""
    return freeze_batch(
        Store(settings.store),
        name,
        list_images(images, limit=limit),
        images=images,
        limit=limit,
        shard_rows=settings.shard_rows,
        batch_date=DAY,
        started_at=now(),
    )


def screen_anew(
    client: Client, settings: Settings, images: str, name: str, limit: int
) -> tuple[str, ...]:
    """Screen images as the flow does; returns where the report lies."""
    store = Store(settings.store)
    detector = load_detector_card(store)
    card = load_card(store, detector.model)
    batch = freeze(settings, images, name, limit)
    extract_and_score.fn(client, store, batch, card, detector)
    seal = publish.fn(store, batch, card, detector)
    assert seal.scored == batch.rows
    return tuple(seal.report.split("/"))
