"""The cost of a second look as a share of a night's processor time: all cells are for review."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flows.jobs.networks import load_inference
from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.scores import ScoreJob, score_part
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import ShardJob, run_shard
from flows.settings import Settings
from flows.stages import scoring
from flows.stages.scoring import look_at_doubtful
from storage.batches.features import create_features
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.records import now
from storage.store import Store
from tasks.images.decoding import DECODING
from tasks.images.listing import list_images
from tests.support.measuring import QUICK, Record
from tests.support.screening import freeze

LIMIT = 0.12  # of a night of which every cell is for review


def here(_: object, work: Callable[[Any], Any], jobs: list[Any], **__: object) -> Iterator[Any]:
    """Run jobs in this process, whose processor time is measured."""
    yield from map(work, jobs)


def seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


@pytest.mark.benchmark
def test_share_of_a_night(
    fitted: Settings, cells: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "run_jobs", here)
    store = Store(fitted.store)
    detector = load_detector_card(store).model_copy(update={"alpha": 0.999, "slides": None})
    card = load_card(store, detector.model)
    batch = freeze(fitted, list_images(cells, limit=600 if QUICK else None), "looked")
    create_features(
        store, card.name, batch.key, rows=batch.rows, shard_rows=batch.shard_rows,
        tap_widths=card.tap_widths, classes=len(card.classes),
        digests={"manifest": batch.manifest_digest, "model": card.digest}, decoding=DECODING,
    )  # fmt: skip
    load_inference(store, card)
    parts = plan_parts(store, batch, by_slide=False)
    jobs = [
        ScoreJob(store, batch, card, detector, n, part.slides, part.spans, now(), None)
        for n, part in enumerate(parts)
    ]

    def night() -> None:
        for shard in batch.shards():
            run_shard(ShardJob(store, batch, shard, card))
        for job in jobs:
            score_part(job)

    def look() -> None:
        look_at_doubtful(None, Screened(store, batch, card, detector), len(parts))  # type: ignore[arg-type]

    first, second = seconds(night), seconds(look)
    record("second look / first", "share of a night", ours=[second / first], limit=LIMIT)
    assert QUICK or second <= LIMIT * first
