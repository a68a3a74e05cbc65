"""Have a second look, on workers, at a night's images for review, before it is published."""

from distributed import Client

from flows.jobs.second_look import LookJob, look_twice, most_doubtful
from flows.monitoring.console import warn
from flows.monitoring.prefect_runs import task
from flows.stages.running import run_jobs
from storage.batches.ledger import complete_looks, screening_key
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.models.sites import SiteCard
from storage.store import Store


@task
def look_at_doubtful(
    client: Client,
    store: Store,
    batch: Batch,
    card: ModelCard,
    detector: DetectorCard,
    parts: int,
    site: SiteCard | None = None,
) -> None:
    """Have a second look at the most doubtful images of a batch whose parts are all scored.

    The selection depends only on the scores, so a resumed run selects the same images; parts that
    an earlier run has finished are skipped.
    """
    if detector.second_look is None:
        warn(
            f"no image gets a second look: detector {detector.name} was fitted without "
            "calibrating it; fit again to enable it"
        )
        return
    key = screening_key(detector.name, site.name if site else None)
    chosen, starts = most_doubtful(store, batch, card, detector, key, parts)
    done = complete_looks(store, batch, key)
    wanted = {part: chosen.of_part(part).tolist() for part in range(parts) if part not in done}
    jobs = [
        LookJob(store, batch, card, detector, key, part, starts[part], tuple(rows), site=site)
        for part, rows in wanted.items()
        if rows
    ]
    for _ in run_jobs(client, look_twice, jobs, title=f"look twice {batch.name}"):
        pass
