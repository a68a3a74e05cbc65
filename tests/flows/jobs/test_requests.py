"""Units of work ask little of an object store: each request takes as long as many images do.

The numbers are those of requests that come to the server, in worker processes that have a batch's
model and metadata already.
"""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from flows.jobs.scoring import plan
from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.scores import ScoreJob, score_part
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import run_shard
from storage.batches import ledger
from storage.store import Store
from tests.support import models, servers, shards


@pytest.fixture
def folder(s3_bucket: str, tmp_path: Path) -> Iterator[str]:
    """A folder on S3."""
    yield f"{s3_bucket}/{tmp_path.name}"
    servers.REQUESTS.seen.clear()


@pytest.fixture
def night(folder: str, store_with_model: Store, cells: Path) -> shards.Night:
    """A night of three shards, of which the first is extracted, in a store on S3."""
    fsspec.filesystem("s3").put(f"{store_with_model.root}/", f"{folder}/store/", recursive=True)
    night = shards.start(Store(f"{folder}/store"), cells)
    run_shard(night.job(0))
    servers.REQUESTS.seen.clear()
    return night


@pytest.mark.parametrize("number", [1, 2])  # the last one is shorter
def test_a_shard_reads_five_times_and_writes_nine_times(night: shards.Night, number: int) -> None:
    run_shard(night.job(number))
    # Taps, six columns and the record; nobody looked again, so `steady` equals its fill value, and
    # zarr removes its chunk.
    assert servers.REQUESTS.counts() == {"HEAD": 1, "GET": 4, "PUT": 8, "POST": 1}


def test_a_shard_that_is_kept_is_read_by_thirteen_requests(night: shards.Night) -> None:
    run_shard(night.job(0))  # opens the arrays to be read
    servers.REQUESTS.seen.clear()
    run_shard(night.job(0))
    assert servers.REQUESTS.counts() == {"HEAD": 1, "GET": 12}


def test_a_job_of_slides_reads_twelve_times_a_shard_and_writes_twice(
    night: shards.Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SHARE_A_JOB", 1)
    card, _ = shards.add_detector(night)
    (part,) = plan_parts(night.store, night.batch, by_slide=False)
    screened = Screened(night.store, night.batch, night.card, card)
    job = ScoreJob(screened, part, models.WHEN)
    score_part(job)  # opens the model, the detector and the arrays
    ledger.discard_scores(night.store, night.batch, screened.key)
    servers.REQUESTS.seen.clear()
    score_part(job)
    assert servers.REQUESTS.counts() == {"HEAD": 3, "GET": 11 * 3, "PUT": 2}
