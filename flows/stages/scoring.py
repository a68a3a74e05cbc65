"""Extract features and score cells against their own slide, on workers."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring import scores
from flows.jobs.scoring.night import NightJob, describe_night
from flows.jobs.scoring.plan import Part, parts_of
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import ShardJob
from flows.monitoring.prefect_artifacts import progress_artifact
from flows.monitoring.prefect_runs import task
from flows.stages.batch import run_shards
from storage.batches.ledger import complete_scores, screening_start
from tasks.detector.witnesses import Discriminant


@task
def extract(client: Client, of: Screened) -> None:
    """Extract the features of the batch's shards, and show the progress in Prefect."""
    _run(client, of, ())


@task
def extract_and_score(client: Client, of: Screened) -> None:
    """Extract features, and score each part of the batch as soon as its last shard is there.

    Parts that are compared with the whole night are left to `score_slides`.
    """
    parts, left, scored_at = _left(of)
    alone = [number for number in left if not _needs_night(parts[number])]
    _run(client, of, [_score_job(of, parts, number, scored_at) for number in alone])


def _run(client: Client, of: Screened, scored: Sequence[scores.ScoreJob]) -> None:
    store, batch, card = of.store, of.batch, of.model
    shards = [ShardJob(store, batch, shard, card) for shard in batch.shards()]
    jobs, done = _Stream(shards, scored), 0
    with progress_artifact(batch.name, len(shards)) as progress:
        for result in run_shards(
            client, store, batch, card, jobs, f"screen {batch.name}", scores.extract_or_score
        ):
            done += 1
            jobs.extracted = result.shard.stop
            progress.update(done)


class _Stream:
    """The shards of a batch, and each of its parts once its rows are ``extracted``.

    It yields None if no shard is left, and no part can begin yet.
    """

    def __init__(self, shards: Sequence[ShardJob], parts: Sequence[scores.ScoreJob]) -> None:
        self._shards, self._parts, self._all = deque(shards), deque(parts), len(shards) + len(parts)
        self.extracted = 0

    def __len__(self) -> int:
        return self._all

    def __iter__(self) -> Iterator[ShardJob | scores.ScoreJob | None]:
        while self._shards or self._parts:
            if self._parts and self._parts[0].spans[-1].stop <= self.extracted:
                yield self._parts.popleft()
            else:
                yield self._shards.popleft() if self._shards else None


@task
def score_slides(client: Client, screened: Screened) -> list[Part]:
    """Score all cells of a batch with complete features; return its parts.

    Parts that are scored already are skipped. At a laboratory, slides are expected to be
    like the laboratory's, and slides with too few cells are compared with it.
    """
    parts, left, scored_at = _left(screened)
    jobs = plan_jobs(client, screened, parts, left, scored_at)
    for _ in run_jobs(client, scores.score_part, jobs, title=f"score {screened.batch.name}"):
        pass
    return parts


def _left(screened: Screened) -> tuple[list[Part], list[int], datetime]:
    """Return the parts of a batch, the numbers of those to score, and when scoring began."""
    parts, done = parts_of(screened), complete_scores(screened.store, screened.batch, screened.key)
    left = [number for number in range(len(parts)) if number not in done]
    return parts, left, screening_start(screened.store, screened.batch, screened.key)


def _needs_night(part: Part) -> bool:
    return any(span.reference is None or span.reference[2] == scores.FEW for span in part.spans)


def plan_jobs(
    client: Client,
    screened: Screened,
    parts: Sequence[Part],
    wanted: Sequence[int],
    scored_at: datetime,
    discriminant: Discriminant | None = None,
) -> list[scores.ScoreJob]:
    """Make the jobs that score some parts of a batch, after describing the night on a worker."""
    night = None
    if wanted and screened.detector.slides is not None:
        unnamed = tuple(
            (slide.start, slide.stop)
            for part in parts
            for slide in part.slides
            if slide.slide is None and slide.patient is None
        )
        job = NightJob(screened, unnamed, discriminant)
        (night,) = run_jobs(client, describe_night, [job], title=f"normal of {screened.batch.name}")
    return [
        replace(
            _score_job(screened, parts, number, scored_at), night=night, discriminant=discriminant
        )
        for number in wanted
    ]


def _score_job(
    screened: Screened, parts: Sequence[Part], number: int, scored_at: datetime
) -> scores.ScoreJob:
    part = parts[number]
    return scores.ScoreJob(screened, number, part.slides, part.spans, scored_at)
