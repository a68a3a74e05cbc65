"""The second stage of screening: score cells against their own slide, on workers."""

from collections.abc import Sequence
from datetime import datetime

from distributed import Client

from flows.jobs.scoring.night import describe_night
from flows.jobs.scoring.plan import Part, night_job, plan_parts, score_jobs
from flows.jobs.scoring.scores import ScoreJob, score_part
from flows.monitoring.prefect_runs import task
from flows.stages.running import run_jobs
from storage.batches.ledger import complete_scores, screening_key, screening_start
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.models.sites import SiteCard
from storage.store import Store
from tasks.detector.witnesses import Discriminant


@task
def score_slides(
    client: Client,
    store: Store,
    batch: Batch,
    card: ModelCard,
    detector: DetectorCard,
    site: SiteCard | None = None,
) -> int:
    """Score all cells of a batch with complete features; return the number of parts.

    Parts that an earlier run has scored are skipped. At a site, slides are expected to be like the
    site's, and slides with too few cells are compared with it.
    """
    key = screening_key(detector.name, site.name if site else None)
    parts = plan_parts(store, batch, by_slide=detector.slides is not None)
    done = complete_scores(store, batch, key)
    left = [number for number in range(len(parts)) if number not in done]
    scored_at = screening_start(store, batch, key)
    jobs = plan_jobs(client, store, batch, card, detector, parts, left, scored_at, site)
    for _ in run_jobs(client, score_part, jobs, title=f"score {batch.name}"):
        pass
    return len(parts)


def plan_jobs(
    client: Client,
    store: Store,
    batch: Batch,
    card: ModelCard,
    detector: DetectorCard,
    parts: Sequence[Part],
    wanted: Sequence[int],
    scored_at: datetime,
    site: SiteCard | None = None,
    discriminant: Discriminant | None = None,
) -> list[ScoreJob]:
    """Make the jobs of some parts of a batch, after describing the night if they need it.

    A ``discriminant`` is heard in the place of the detector's or the site's.
    """
    night, job = None, night_job(store, batch, card, detector, parts, wanted, site, discriminant)
    if job is not None:
        (night,) = run_jobs(client, describe_night, [job], title=f"normal of {batch.name}")
    return score_jobs(
        store, batch, card, detector, parts, wanted, scored_at, night, site, discriminant
    )
