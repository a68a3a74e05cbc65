"""Extract features, and then score cells against their own slide, on workers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring import scores
from flows.jobs.scoring.night import NightJob, describe_night
from flows.jobs.scoring.plan import Part, parts_of
from flows.jobs.scoring.scores import ScoreJob
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import ShardJob
from flows.prefect.decorators import task
from flows.stages.batch import run_shards
from storage.batches.ledger import complete_scores, screening_start
from tasks.detector.witnesses import Discriminant
from tasks.reports.image_rows import QValues


@dataclass
class ScoredParts:
    """The scored ``parts`` of a batch, and ``heads`` (n,) of digests; 0: none, or not scored."""

    parts: list[Part]
    heads: NDArray[np.uint64]
    q_values: QValues = field(default_factory=QValues)


@task
def extract(client: Client, of: Screened) -> None:
    """Extract the features of the batch's shards."""
    store, batch, card = of.store, of.batch, of.model
    jobs = [ShardJob(store, batch, shard, card) for shard in batch.shards()]
    for _ in run_shards(client, store, batch, card, jobs, f"screen {batch.name}"):
        pass


@task
def score(client: Client, of: Screened) -> ScoredParts:
    """Score the parts of a batch with complete features; those scored before are only read."""
    parts, done = parts_of(of), complete_scores(of.store, of.batch, of.key)
    scored = ScoredParts(parts, np.zeros(of.batch.rows, np.uint64))
    begun = screening_start(of.store, of.batch, of.key)
    jobs = [ScoreJob(of, part, begun, is_scored=True) for part in parts if part.rows in done]
    jobs += jobs_of(client, of, parts, [part for part in parts if part.rows not in done], begun)
    for part in run_jobs(client, scores.score_part, jobs, title=f"score {of.batch.name}"):
        scored.q_values.add(part.p_values)
        scored.heads[part.rows.start : part.rows.stop] = part.heads
    return scored


def jobs_of(
    client: Client,
    of: Screened,
    parts: Sequence[Part],
    wanted: Sequence[Part],
    scored_at: datetime,
    discriminant: Discriminant | None = None,
) -> list[ScoreJob]:
    """Make the jobs of some ``parts`` of a batch; a worker first describes the night they need."""
    night = None
    if of.detector.slides is not None and any(part.needs_night for part in wanted):
        unnamed = tuple(
            (slide.start, slide.stop)
            for part in parts
            for slide in part.slides
            if slide.slide is None and slide.patient is None
        )
        job = NightJob(of, unnamed, discriminant)
        (night,) = run_jobs(client, describe_night, [job], title=f"normal of {of.batch.name}")
    return [ScoreJob(of, part, scored_at, night, discriminant) for part in wanted]
