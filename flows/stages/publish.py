"""Publish a batch: join the rows of its shards into reports, and seal them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.jobs.detectors import load_fitted_detector
from flows.settings import Settings
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
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.parquet import read_table
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
    report_digest,
    report_path,
)
from storage.store import Store
from tasks.reports.batch_counts import NightTally
from tasks.reports.batches import batch_row
from tasks.reports.columns import REVIEW
from tasks.reports.fields import FieldTally
from tasks.reports.images import q_values
from tasks.reports.light import judge
from tasks.reports.slides import SlideTally

HISTORY = 60  # earlier batches that are read: twice those compared with, for some are left out


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
    row: dict[str, Any] = read_table(store, *path).to_pylist()[0]
    return row


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
            *(
                read_table(store, *path, columns=["p_value"])["p_value"].to_numpy()
                for path in paths
            ),
        ]
    )
    q = q_values(p)
    fitted = load_fitted_detector(store, detector)
    night = NightTally(fitted.scales)
    slides = SlideTally()
    segmentation = segmentation_of(store, batch.images)
    fields = FieldTally(read_fields(store, segmentation)) if segmentation else None

    def parts() -> Iterator[pa.Table]:
        for shard, path in zip(batch.shards(), paths, strict=True):
            rows = read_table(store, *path)
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
