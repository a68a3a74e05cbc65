"""Run one shard of a batch; any worker can repeat it, as each step is idempotent and atomic."""

import os
import socket
import time
from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from flows.extensions import extension
from flows.jobs import libraries
from flows.jobs.worker import network_of, settle_worker
from storage.batches import ledger, manifests
from storage.batches.features import (
    FAILED,
    SCORED,
    FeatureBlock,
    create_features,
    empty_block,
    image_ids,
    write_block,
)
from storage.batches.known_features import copy_features, index_images, verified_block
from storage.models import classifiers, contributions
from storage.store import Store
from tasks.detector.moments import ClassStatistics, statistics_of
from tasks.detector.slides.groups import slide_keys
from tasks.images import listing, regions
from tasks.images.decoding import DECODING, BadImageError
from tasks.network.extraction import Features, Reading, extract, rows_looked_at

if TYPE_CHECKING:
    from tasks.network.inference import Inference


def prepare_features(store: Store, batch: manifests.Batch, card: classifiers.ModelCard) -> None:
    """Preallocate the features of a batch, to be filled by its shards."""
    create_features(
        store,
        card.features,
        batch,
        tap_widths=card.tap_widths,
        classes=card.classes,
        digest=card.digest,
        decoding=DECODING,
    )


@dataclass(frozen=True)
class ShardJob:
    """A shard to extract for the n-th time (``tries``), and to ``fit`` by its labelled images."""

    store: Store
    batch: manifests.Batch
    shard: manifests.Shard
    model: classifiers.ModelCard
    fit: bool = False
    tries: int = 1

    def rows(self) -> int:
        """Count the shard's images."""
        return self.shard.stop - self.shard.start

    def probe(self, row: int) -> None:
        """Extract one image like those of a shard, without writing anything."""
        manifest = manifests.read_manifest(self.store, self.batch, self.shard).slice(row, 1)
        extract(
            network_of(self.store, self.model),
            regions.image_refs(manifest),
            tap_widths=self.model.tap_widths,
            reading=Reading(check=extension("check of single cells")),
        )

    def quarantine(self, rows: list[int]) -> Self:
        """Record images that kill workers, so that this batch never decodes them again."""
        ledger.write_quarantine(self.store, self.batch, self.model.features, self.shard, rows)
        return self


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be scored: its row, counted from its shard's start, and why."""

    row: int
    uri: str
    image_id: str | None
    reason: str
    message: str


@dataclass(frozen=True)
class ShardResult:
    """The outcome of a shard: ``seconds`` of the last try, and counts of labelled images."""

    shard: manifests.Shard
    failures: tuple[FailedImage, ...]
    reused: bool
    tries: int
    seconds: float
    worker: str
    statistics: ClassStatistics | None = None
    fitted: int = 0
    held_out: int = 0


def run_shard(job: ShardJob) -> ShardResult:
    """Extract a shard unless the ledger has its features, and fit it if asked."""
    settle_worker()
    begun = time.monotonic()
    store, batch, model, shard = job.store, job.batch, job.model.features, job.shard
    with store.together() as pool:
        reading = pool.submit(manifests.read_manifest, store, batch, shard)
        looking = pool.submit(verified_block, store, model, batch, shard)
        asking = pool.submit(ledger.read_quarantine, store, batch, model, shard)
    manifest, kept = reading.result(), looking.result()
    block, record = kept or _extract_shard(job, manifest, asking.result())
    statistics, fitted, held_out = _fit_shard(job, manifest, block) if job.fit else (None, 0, 0)
    return ShardResult(
        job.shard,
        _failed_images(manifest, block, record),
        reused=kept is not None,
        tries=job.tries,
        seconds=time.monotonic() - begun,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        statistics=statistics,
        fitted=fitted,
        held_out=held_out,
    )


def _extract_shard(
    job: ShardJob, manifest: pa.Table, killers: list[int]
) -> tuple[FeatureBlock, ledger.ShardRecord]:
    card = job.model
    with ThreadPoolExecutor(1) as beside:  # while earlier batches are read
        loading = beside.submit(network_of, job.store, card)
        index = index_images(job.store, card.features, card.digest, job.batch.earlier, DECODING)
    network = loading.result()
    features = _extract(network, job, manifest, killers, index)
    block = empty_block(manifest.num_rows, card.tap_widths, len(card.classes))
    known = {
        row: image.image_id
        for row, image in enumerate(features.images)
        if image.known and image.image_id is not None
    }
    if not copy_features(job.store, card.features, index, known, block):
        features = _extract(network, job, manifest, killers, ())
        known = {}
    failures = _fill(block, features, known)
    block.label[:] = listing.class_numbers(manifest, card.classes)
    digest = write_block(job.store, card.features, job.batch.key, job.shard.start, block)
    record = ledger.ShardRecord(
        shard=job.shard.number,
        start=job.shard.start,
        stop=job.shard.stop,
        scored=len(block) - len(failures),
        failures=failures,
        tries=job.tries,
        digest=digest,
        versions={name: libraries.installed()[name] for name in libraries.OF_FEATURES},
    )
    ledger.write_shard_record(job.store, job.batch, card.features, record)
    return block, record


def _fill(
    block: FeatureBlock, features: Features, known: Mapping[int, bytes]
) -> list[ledger.Failure]:
    failures = []
    for row, image in enumerate(features.images):
        if row in known:
            continue
        if image.image_id is not None:
            block.image_id[row] = np.frombuffer(image.image_id, np.uint8)
        if image.size is not None:
            block.size[row] = image.size
        if image.colour is not None:
            block.colour[row] = image.colour
        if image.failure is not None:
            failures.append(
                ledger.Failure(row=row, reason=image.failure.reason, message=str(image.failure))
            )
        block.status[row] = SCORED if image.failure is None else FAILED
    rows = np.setdiff1d(np.arange(len(features.images)), list(known))
    for name, values in features.taps.items():
        block.taps[name][rows] = values[rows]
    block.logits[rows] = features.logits[rows]
    block.steady[rows] = features.steady[rows]
    return failures


def _extract(
    network: "Inference",
    job: ShardJob,
    manifest: pa.Table,
    killers: list[int],
    known: Container[bytes],
) -> Features:
    killer = BadImageError("killed_worker", "this image alone kills the worker that decodes it")
    return extract(
        network,
        regions.image_refs(manifest),
        tap_widths=job.model.tap_widths,
        reading=Reading(dict.fromkeys(killers, killer), known, extension("check of single cells")),
        looked_at=rows_looked_at(job.shard.start, job.shard.stop, job.batch.rows),
    )


def _failed_images(
    manifest: pa.Table, block: FeatureBlock, record: ledger.ShardRecord
) -> tuple[FailedImage, ...]:
    rows = np.asarray([failure.row for failure in record.failures], np.int64)
    uris, ids = manifest["uri"].take(rows).to_pylist(), image_ids(block.take(rows))
    return tuple(
        FailedImage(failure.row, uri, image_id, failure.reason, failure.message)
        for failure, uri, image_id in zip(record.failures, uris, ids, strict=True)
    )


def _fit_shard(
    job: ShardJob, manifest: pa.Table, block: FeatureBlock
) -> tuple[ClassStatistics, int, int]:
    """Compute the statistics of labelled images; count those fitted and those held out."""
    labelled = contributions.is_labelled(block)
    fitted = labelled & ~contributions.is_held_out(job.model, manifest, block)
    labels = np.where(fitted, block.label, np.int8(-1))
    names = (manifest[name].to_pylist() for name in ("patient_id", "slide_id"))
    keys = slide_keys(job.batch.key, *names)
    statistics = statistics_of(block.taps, labels, len(job.model.classes), keys)
    return statistics, int(fitted.sum()), int((labelled & ~fitted).sum())
