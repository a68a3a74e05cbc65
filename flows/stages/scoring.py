"""Score cells against their own slide, on workers."""

from collections.abc import Sequence
from datetime import datetime

from distributed import Client

from flows.cluster.executor import run_jobs
from flows.jobs.scoring import scores
from flows.jobs.scoring.night import NightJob, describe_night
from flows.jobs.scoring.plan import Part, parts_of
from flows.jobs.scoring.screened import Screened
from flows.monitoring.prefect_runs import task
from storage.batches.ledger import complete_scores, screening_start
from tasks.detector.witnesses import Discriminant


@task
def score_slides(client: Client, screened: Screened) -> int:
    """Score all cells of a batch with complete features; return the number of parts.

    Parts that an earlier run has scored are skipped. At a laboratory, slides are expected to be
    like the laboratory's, and slides with too few cells are compared with it.
    """
    parts, done = parts_of(screened), complete_scores(screened.store, screened.batch, screened.key)
    left = [number for number in range(len(parts)) if number not in done]
    scored_at = screening_start(screened.store, screened.batch, screened.key)
    jobs = plan_jobs(client, screened, parts, left, scored_at)
    for _ in run_jobs(client, scores.score_part, jobs, title=f"score {screened.batch.name}"):
        pass
    return len(parts)


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
    references = [span.reference for number in wanted for span in parts[number].spans]
    leans = any(reference is None or reference[2] == scores.FEW for reference in references)
    if leans and screened.detector.slides is not None:
        unnamed = tuple(
            (slide.start, slide.stop)
            for part in parts
            for slide in part.slides
            if slide.slide is None and slide.patient is None
        )
        job = NightJob(screened, unnamed, discriminant)
        (night,) = run_jobs(client, describe_night, [job], title=f"normal of {screened.batch.name}")
    return [
        scores.ScoreJob(
            screened,
            number,
            parts[number].slides,
            parts[number].spans,
            scored_at,
            night,
            discriminant,
        )
        for number in wanted
    ]
