"""Extract features and score cells against their own slide, on workers."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring import scores
from flows.jobs.scoring.night import NightJob, describe_night
from flows.jobs.scoring.plan import parts_of
from flows.jobs.scoring.scores import Part, ScoreJob, Surveyed
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import ShardJob, ShardResult
from flows.prefect.artifacts import progress_artifact
from flows.prefect.decorators import task
from flows.stages.batch import run_shards
from storage.batches.ledger import complete_scores, screening_start
from tasks.detector.witnesses import Discriminant
from tasks.reports.image_rows import QValues


@dataclass
class Scored:
    """The parts of a batch, those that are ``done``, and the values compared across the batch.

    ``heads`` (n,) are the heads of the images' digests, 0 where an image has none or is not scored.
    """

    parts: list[Part]
    heads: NDArray[np.uint64]
    q_values: QValues = field(default_factory=QValues)
    done: set[range] = field(default_factory=set)

    @classmethod
    def nothing_of(cls, of: Screened) -> "Scored":
        """Plan the parts of a batch; none is known to be scored."""
        return cls(parts_of(of), np.zeros(of.batch.rows, np.uint64))

    def add(self, part: Surveyed) -> None:
        """Add a scored part."""
        self.q_values.add(part.p_values)
        self.heads[part.rows.start : part.rows.stop] = part.heads
        self.done.add(part.rows)


@task
def extract(client: Client, of: Screened) -> None:
    """Extract the features of the batch's shards, and show the progress in Prefect."""
    deque(_run(client, of, []), maxlen=0)


@task
def extract_and_score(client: Client, of: Screened, scored: Scored) -> Scored:
    """Extract features, and score each part of the batch as soon as its last shard is there.

    Parts that are compared with the whole night are left to `score_rest`, unless they are scored.
    """
    begun = _begun(of)
    complete = complete_scores(of.store, of.batch, of.key)
    jobs = [
        ScoreJob(of, part, begun, is_scored=part.rows in complete)
        for part in scored.parts
        if part.rows in complete or not part.needs_night
    ]
    for part in _run(client, of, jobs):
        scored.add(part)
    return scored


def _run(client: Client, of: Screened, parts: Sequence[ScoreJob]) -> Iterator[Surveyed]:
    store, batch, card = of.store, of.batch, of.model
    shards = [ShardJob(store, batch, shard, card) for shard in batch.shards()]
    jobs, done = _Stream(shards, parts), 0
    with progress_artifact(batch.name, len(shards)) as progress:
        for result in run_shards(
            client, store, batch, card, jobs, f"screen {batch.name}", scores.extract_or_score
        ):
            if isinstance(result, ShardResult):
                done += 1
                jobs.extracted = result.shard.stop
                progress.update(done)
            elif result is not None:
                yield result


class _Stream:
    """The shards of a batch, and each of its parts once its rows are ``extracted``.

    It yields None if no shard is left, and no part can begin yet.
    """

    def __init__(self, shards: Sequence[ShardJob], parts: Sequence[ScoreJob]) -> None:
        self._shards, self._parts, self._all = deque(shards), deque(parts), len(shards) + len(parts)
        self.extracted = 0

    def __len__(self) -> int:
        return self._all

    def __iter__(self) -> Iterator[ShardJob | ScoreJob | None]:
        while self._shards or self._parts:
            if self._parts and self._parts[0].part.rows.stop <= self.extracted:
                yield self._parts.popleft()
            else:
                yield self._shards.popleft() if self._shards else None


@task
def score_rest(client: Client, of: Screened, scored: Scored) -> Scored:
    """Score the parts that are not yet scored, of a batch with complete features.

    At a laboratory, slides are expected to be like the laboratory's, and slides with too few cells
    are compared with it.
    """
    left = [part for part in scored.parts if part.rows not in scored.done]
    jobs = jobs_of(client, of, scored.parts, left, _begun(of))
    for part in run_jobs(client, scores.score_part, jobs, title=f"score {of.batch.name}"):
        scored.add(part)
    return scored


def _begun(of: Screened) -> datetime:
    return screening_start(of.store, of.batch, of.key)


def jobs_of(
    client: Client,
    of: Screened,
    parts: Sequence[Part],
    wanted: Sequence[Part],
    scored_at: datetime,
    discriminant: Discriminant | None = None,
) -> list[ScoreJob]:
    """Make the jobs of some ``parts`` of a batch, after describing the night on a worker."""
    night = None
    if wanted and of.detector.slides is not None:
        unnamed = tuple(
            (slide.start, slide.stop)
            for part in parts
            for slide in part.slides
            if slide.slide is None and slide.patient is None
        )
        job = NightJob(of, unnamed, discriminant)
        (night,) = run_jobs(client, describe_night, [job], title=f"normal of {of.batch.name}")
    return [ScoreJob(of, part, scored_at, night, discriminant) for part in wanted]
