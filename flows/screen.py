"""The flow `screen`: a night's images -> a report with a diagnosis and a score for each."""

import time
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from distributed import Client
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.artifacts import announce, progress_artifact
from flows.batch import claim, run_shards, start_or_resume
from flows.cluster import open_client
from flows.pages import has_page, write_page
from flows.results import Outcome, table
from flows.settings import Settings
from flows.telemetry import observed, stage
from storage.batches.ledger import (
    Seal,
    discard_rows,
    read_seal,
    rows_path,
    screening_start,
    write_seal,
)
from storage.batches.manifests import Batch
from storage.batches.segmentations import read_fields, segmentation_of
from storage.models.classifiers import ModelCard, load_card
from storage.models.detectors import DetectorCard, load_detector_card
from storage.reports.pages import page_path
from storage.reports.schemas.batches import batch_schema
from storage.reports.schemas.fields import field_schema
from storage.reports.schemas.images import image_schema
from storage.reports.schemas.slides import slide_schema
from storage.reports.tables import (
    BATCHES,
    FIELDS,
    IMAGES,
    SLIDES,
    publish_report,
    read_batches_before,
    read_rows,
    report_digest,
    report_path,
)
from storage.store import Store
from tasks.drift import NightTally, batch_row, judge
from tasks.fields import FieldTally
from tasks.report import REVIEW, q_values
from tasks.shard import ShardJob, load_fitted_detector
from tasks.slides import SlideTally

HISTORY = 60  # earlier batches that are read: twice those compared with, for some are left out


class ScreenOutcome(Outcome):
    """A published report, in figures."""

    batch: str
    report: str
    page: str
    model: str
    detector: str
    images: int
    scored: int
    failures: dict[str, int]
    diagnoses: dict[str, int]
    abnormal: int
    review: int
    slides_for_review: int
    light: str
    reasons: list[str]
    seconds: float
    repeated: bool

    @property
    def failed(self) -> bool:
        """Whether some images could not be scored, or there were none."""
        return self.scored < self.images or not self.images

    def text(self) -> str:
        """The outcome as a person reads it in a terminal."""
        diagnoses = ", ".join(f"{n:,} {name}" for name, n in self.diagnoses.items())
        failures = ", ".join(f"{n} {reason}" for reason, n in self.failures.items())
        share = 100 * self.abnormal / self.scored if self.scored else 0.0
        rows: list[tuple[str, object]] = [
            (
                "images",
                f"{self.images:,}: {self.scored:,} scored, {self.images - self.scored} failed",
            ),
            ("diagnoses", diagnoses or "none"),
            ("abnormal", f"{self.abnormal:,} ({share:.1f}% of the scored)"),
            ("for review", f"{self.review:,} images, {self.slides_for_review:,} slides"),
            ("light", f"{self.light}{': ' if self.reasons else ''}{'; '.join(self.reasons)}"),
            ("detector", self.detector),
            ("report", self.report),
            ("page", self.page),
        ]
        if failures:
            rows.insert(1, ("failed", failures))
        if self.repeated:
            return f"batch {self.batch} was published before; nothing to do\n{table(rows)}"
        rate = self.images / self.seconds
        return f"batch {self.batch}: {self.seconds:.1f} s, {rate:,.0f} images/s\n{table(rows)}"


class ImagesFailedError(Exception):
    """The report is published, but has failed images, or none at all: the batch is not green."""

    def __init__(self, outcome: ScreenOutcome) -> None:
        failed = outcome.images - outcome.scored
        super().__init__(
            f"there are no images for batch {outcome.batch}; when they are there, run it again"
            if not outcome.images
            else f"{failed} of {outcome.images} images of batch {outcome.batch} failed "
            f"({', '.join(f'{n} {reason}' for reason, n in outcome.failures.items())}); "
            f"the report has a row for each: {outcome.report}"
        )
        self.outcome = outcome


@flow
@observed(night=True)
def screen(
    images: Annotated[
        str, Field(description="the night's images: folder, glob, archive, manifest")
    ],
    batch: Annotated[str, Field(description="name of this batch")],
    detector: Annotated[
        str | None, Field(description="the detector; by default the newest")
    ] = None,
    date: Annotated[date | None, Field(description="the batch's day; by default today")] = None,
    limit: Annotated[int | None, Field(ge=1, description="take only so many images")] = None,
    force: Annotated[
        bool, Field(description="start the batch anew; its report stays until replaced")
    ] = False,
    wait: Annotated[bool, Field(description="wait while another run works on the batch")] = False,
    settings: Settings | None = None,
) -> ScreenOutcome:
    """Diagnose and score a night's images, and publish the report.

    Raises:
        ImagesFailedError: the report is published, but not every image could be scored.
    """
    settings = settings or Settings()
    store = Store(settings.store)
    detector_card = load_detector_card(store, detector)
    card = load_card(store, detector_card.model)
    started = time.monotonic()
    with claim(store, batch, wait=wait) as held:
        with stage("freeze"):
            frozen = start_or_resume(
                settings, batch, images, card.classes, limit=limit, batch_date=date, force=force
            )
        seal = valid_seal(store, frozen, detector_card.name)
        repeated = seal is not None
        if seal is None or not has_page(store, frozen, seal):
            with open_client(settings) as client:
                if seal is None:
                    with stage("extract and score"):
                        extract_and_score(client, store, frozen, card, detector_card)
                    held.check()
                    with stage("publish"):
                        seal = publish(settings, frozen, card, detector_card)
                with stage("page"):
                    write_page(client, settings, frozen, seal, card, detector_card)
        night = batch_report(store, frozen)
    if not repeated:
        announce(store, frozen, seal, night)
    outcome = ScreenOutcome(
        batch=batch,
        report=store.address(*report_path(frozen.name, frozen.batch_date)),
        page=store.address(*page_path(frozen.name)),
        model=card.name,
        detector=detector_card.name,
        images=seal.rows,
        scored=seal.scored,
        failures=seal.failures,
        diagnoses=seal.diagnoses,
        abnormal=seal.abnormal,
        review=seal.review,
        slides_for_review=night["slides_for_review"],
        light=night["light"],
        reasons=night["reasons"],
        seconds=time.monotonic() - started,
        repeated=repeated,
    )
    if outcome.failed:
        raise ImagesFailedError(outcome)
    return outcome


def valid_seal(store: Store, batch: Batch, detector: str) -> Seal | None:
    """The seal of a batch's reports, if those very reports are still there."""
    seal = read_seal(store, batch, detector)
    if seal is None:
        return None
    sealed = {
        IMAGES: seal.report_digest,
        SLIDES: seal.slides_digest,
        BATCHES: seal.batch_digest,
    }
    # None is what seals say that are older than the report on slides.
    if None in sealed.values():
        return None
    if seal.fields_digest:
        sealed[FIELDS] = seal.fields_digest
    for kind, digest in sealed.items():
        if report_digest(store, report_path(batch.name, batch.batch_date, kind)) != digest:
            return None
    return seal


def batch_report(store: Store, batch: Batch) -> dict[str, Any]:
    """The row of a batch in the history of nights."""
    path = report_path(batch.name, batch.batch_date, BATCHES)
    row: dict[str, Any] = read_rows(store, path).to_pylist()[0]
    return row


@task(cache_policy=NO_CACHE)
def extract_and_score(
    client: Client, store: Store, batch: Batch, card: ModelCard, detector: DetectorCard
) -> None:
    """Run the batch's shards."""
    scored_at = screening_start(store, batch, detector.name)
    jobs = [
        ShardJob(store, batch, shard, card.name, detector=detector.name, scored_at=scored_at)
        for shard in batch.shards()
    ]
    with progress_artifact(batch.name, len(jobs)) as progress:
        results = run_shards(client, store, batch, card, jobs, f"screen {batch.name}")
        for done, _ in enumerate(results, 1):
            progress.update(done)


@task(cache_policy=NO_CACHE)
def publish(settings: Settings, batch: Batch, card: ModelCard, detector: DetectorCard) -> Seal:
    """Join the shards' rows into the report, let it appear at once with its summaries, and seal it.

    A resumed run writes the same bytes, for what is compared with are nights before this one.
    """
    store = Store(settings.store)
    paths = [rows_path(batch, detector.name, shard) for shard in batch.shards()]
    p = np.concatenate(
        [
            np.empty(0),  # a night may have no images
            *(read_rows(store, path, ["p_value"])["p_value"].to_numpy() for path in paths),
        ]
    )
    q = q_values(p)
    fitted = load_fitted_detector(store, detector.name, detector.digest)
    night = NightTally(fitted.scales)
    slides = SlideTally()
    segmentation = segmentation_of(store, batch.images)
    fields = FieldTally(read_fields(store, segmentation)) if segmentation else None

    def parts() -> Iterator[pa.Table]:
        for shard, path in zip(batch.shards(), paths, strict=True):
            rows = read_rows(store, path)
            values = q[shard.start : shard.stop]
            rows = rows.append_column("q_value", pa.array(values, mask=np.isnan(values)))
            night.count(rows)
            slides.count(rows)
            if fields:
                fields.count(rows)
            yield rows

    path = report_path(batch.name, batch.batch_date)
    digest = publish_report(store, path, image_schema(card.classes, list(detector.taps)), parts())
    scored_at = screening_start(store, batch, detector.name)
    names = {
        "model": card.name,
        "detector": detector.name,
        "batch": batch.name,
        "batch_date": batch.batch_date.isoformat(),
        "scored_at": scored_at,
    }
    fields_digest = None
    if fields:
        field_rows = fields.table(limits=settings.field_limits, names=names)
        slides.count_fields(field_rows)
        fields_digest = publish_report(
            store, report_path(batch.name, batch.batch_date, FIELDS), field_schema(), [field_rows]
        )
    slide_rows = slides.table(
        alpha=detector.alpha,
        names=names,
        detectable=settings.detectable_percent,
        tolerated=settings.field_limits.tolerated,
    )
    slides_digest = publish_report(
        store, report_path(batch.name, batch.batch_date, SLIDES), slide_schema(), [slide_rows]
    )
    earlier = read_batches_before(store, batch.batch_date, HISTORY)
    row = batch_row(
        night,
        judge(night, earlier, detector=detector.name, alpha=detector.alpha),
        alpha=detector.alpha,
        slides=slide_rows.num_rows,
        slides_for_review=slide_rows["verdict"].to_pylist().count(REVIEW),
        names=names,
    )
    batch_digest = publish_report(
        store, report_path(batch.name, batch.batch_date, BATCHES), batch_schema(), [row]
    )
    seal = Seal(
        batch=batch.name,
        detector=detector.name,
        model=card.name,
        report="/".join(path),
        report_digest=digest,
        slides_digest=slides_digest,
        batch_digest=batch_digest,
        fields_digest=fields_digest,
        rows=batch.rows,
        scored=night.scored,
        failed=night.images - night.scored,
        diagnoses={name: night.diagnoses[name] for name in card.classes},
        abnormal=night.abnormal,
        review=night.verdicts[REVIEW],
        failures=dict(night.failures),
        scored_at=scored_at,
    )
    if night.images != batch.rows:
        raise RuntimeError(f"{night.images} rows, but {batch.rows} images")
    write_seal(store, batch, seal)
    discard_rows(store, batch, detector.name)
    return seal
