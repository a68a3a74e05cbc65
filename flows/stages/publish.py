"""Publish a screened batch: join the rows of its parts into the report on images, and seal it."""

from collections.abc import Iterator

import pyarrow as pa

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring.finish import FinishJob, finish_parts
from flows.jobs.scoring.plan import runs_of
from flows.jobs.scoring.screened import Screened
from flows.monitoring import console
from flows.prefect.decorators import task
from flows.stages.scoring import ScoredParts
from storage.batches import ledger, manifests
from storage.parquet import iterate_verified, read_table, write_table
from storage.reports.publication import publication
from storage.reports.schemas.images import image_schema
from storage.reports.tables import GROUP_ROWS, IMAGES, report_digest, report_path
from storage.store import Store
from tasks.reports.image_columns import SHIFTS, ImageCounts, repeated


def valid_seal(store: Store, batch: manifests.Batch, key: str) -> ledger.Seal | None:
    """Read the seal of a screening's report; None if the report or its table of slides is lost."""
    seal = ledger.read_seal(store, batch, key)
    if seal is None:
        return None
    sealed = {
        report_path(batch.name, batch.batch_date): seal.report_digest,
        ledger.slides_path(batch, key): seal.shifts_digest,
    }
    kept = all(report_digest(store, path) == digest for path, digest in sealed.items())
    return seal if kept else None


@task
def publish(client: Client, screened: Screened, scored: ScoredParts) -> ledger.Seal:
    """Finish scored parts on workers, join their rows into the report on images, and seal it."""
    store, batch, key = screened.store, screened.batch, screened.key
    counts = ImageCounts()

    def finished() -> Iterator[tuple[tuple[str, ...], str]]:
        jobs = _finish_jobs(screened, scored)
        for piece in run_jobs(client, finish_parts, jobs, title=f"publish {batch.name}"):
            counts.add(piece.counts)
            yield piece.path, piece.digest

    shifts = [
        read_table(store, *ledger.shifts_path(batch, key, part.rows)) for part in scored.parts
    ]
    write_table(
        store, pa.concat_tables([SHIFTS.empty_table(), *shifts]), *ledger.slides_path(batch, key)
    )
    schema = image_schema(screened.model.classes, list(screened.detector.taps))
    with publication(store, batch) as reports:
        reports.add(IMAGES, schema, iterate_verified(store, finished()))
        if counts.images != batch.rows:
            raise RuntimeError(f"{counts.images} rows, but {batch.rows} images")
        reports.appear()
    seal = ledger.Seal(
        batch=batch.name,
        detector=screened.detector.name,
        model=screened.model.name,
        report="/".join(report_path(batch.name, batch.batch_date)),
        report_digest=reports.digests[IMAGES],
        shifts_digest=store.digest(*ledger.slides_path(batch, key)),
        rows=batch.rows,
        scored=counts.scored,
        failed=counts.images - counts.scored,
        diagnoses={name: counts.diagnoses[name] for name in screened.model.classes},
        abnormal=counts.abnormal,
        review=counts.review,
        failures=dict(sorted(counts.failures.items())),
        scored_at=ledger.screening_start(store, batch, key),
    )
    ledger.write_seal(store, batch, seal)
    ledger.discard_scores(store, batch, key)
    return seal


def _finish_jobs(screened: Screened, scored: ScoredParts) -> Iterator[FinishJob]:
    copies = repeated([scored.heads])
    if copies.any():
        console.warn(
            f"{copies.sum():,} of {len(copies):,} images are copies of others of the batch: "
            "they count once, and their slides are for review"
        )
    for some in runs_of([part.rows for part in scored.parts], GROUP_ROWS):
        rows = slice(some[0].start, some[-1].stop) if some else slice(0)
        yield FinishJob(screened, some, scored.q_values, copies[rows])
