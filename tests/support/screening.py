"""Screening as tests and benchmarks do it."""

from datetime import date
from itertools import count
from pathlib import Path

import pyarrow as pa
from distributed import Client

from flows.jobs.scoring.screened import Screened
from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.night import NightOutcome, screen
from flows.stages.publish import publish
from flows.stages.scoring import extract, score
from storage.batches.manifests import Batch
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.records import now
from storage.store import Store
from tests.support import batches

DAY = date(2026, 1, 1)
_numbers = count()


def freeze(settings: Settings, manifest: pa.Table, name: str) -> Batch:
    """Freeze a batch that names no earlier one, so that nothing is used again.

    Its name gets a number, for benchmarks share a store.
    """
    store, name = Store(settings.store), f"{name}-{next(_numbers)}"
    given = {"shard_rows": settings.shard_rows, "batch_date": DAY, "started_at": now()}
    return batches.freeze(store, manifest, name, images="a benchmark's", **given)


def screen_anew(
    client: Client, settings: Settings, manifest: pa.Table, name: str
) -> tuple[str, ...]:
    """Screen images without Prefect and earlier batches; returns where the report lies."""
    store = Store(settings.store)
    detector = load_detector_card(store)
    card = load_card(store, detector.model)
    batch = freeze(settings, manifest, name)
    of = Screened(store, batch, card, detector)
    extract(client, of)
    seal = publish(client, of, score(client, of))
    assert seal.scored == batch.rows
    return tuple(seal.report.split("/"))


def screen_night(images: Path, settings: Settings, **options: object) -> NightOutcome:
    """Screen a night in which one file is cut short."""
    outcome = screen.fn(Screen(images=str(images / "night"), batch="night", **options), settings)
    assert outcome.failed
    return outcome
