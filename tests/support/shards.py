"""A small batch whose shards are run by hand, and a detector of it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flows.jobs.shard import ShardJob, ShardResult, run_shard
from storage.batches.features import create_features
from storage.batches.manifests import Batch, read_manifest
from storage.models.classifiers import ModelCard, load_card
from storage.models.detectors import DetectorCard, TapCard, save_detector
from storage.records import arrays_to_bytes
from storage.store import Store
from tasks.detector.calibration import Calibration
from tasks.detector.detector import Detector, fit_gaussians
from tasks.detector.moments import merge_statistics
from tasks.images.decoding import DECODING
from tasks.images.listing import list_images
from tests.support.batches import freeze
from tests.support.cards import card
from tests.support.models import CLASSES

SHARD_ROWS = 10


@dataclass
class Night:
    """A batch; that of `start` has 24 cells of four patients in shards of 10, 10 and 4."""

    store: Store
    batch: Batch
    card: ModelCard

    def jobs(self, **wanted: object) -> list[ShardJob]:
        return [
            ShardJob(self.store, self.batch, shard, self.card, **wanted)  # type: ignore[arg-type]
            for shard in self.batch.shards()
        ]

    def job(self, number: int, **wanted: object) -> ShardJob:
        return self.jobs(**wanted)[number]

    def run(self, **wanted: object) -> list[ShardResult]:
        return [run_shard(job) for job in self.jobs(**wanted)]


def start(store: Store, images: Path, name: str = "night") -> Night:
    card = load_card(store, "tiny")
    manifest = list_images(str(images), classes=CLASSES)
    return freeze_night(store, manifest, name, card, SHARD_ROWS, str(images))


def freeze_night(
    store: Store,
    manifest: pa.Table,
    name: str,
    card: ModelCard,
    shard_rows: int,
    images: str = "cells",
    decoding: int = DECODING,
    **plan: Any,
) -> Night:
    """Freeze a batch and allot its features."""
    batch = freeze(store, manifest, name, images=images, shard_rows=shard_rows, **plan)
    create_features(
        store, card.name, batch, tap_widths=card.tap_widths, classes=card.classes,
        digest=card.digest, decoding=decoding,
    )  # fmt: skip
    return Night(store, batch, card)


def start_spoilt(store: Store, cells: Path, tmp_path: Path) -> Night:
    """The same night, but of every image of the second shard one half is lost."""
    shutil.copytree(cells, tmp_path / "images")
    night = start(store, tmp_path / "images")
    second = list(night.batch.shards())[1]
    for uri in read_manifest(night.store, night.batch, second)["uri"].to_pylist():
        path = Path(uri.removeprefix("file://"))
        size = path.stat().st_size
        os.truncate(path, size // 2)
        os.truncate(path, size)  # of another size it would not be the image that was frozen
    return night


def add_detector(night: Night) -> tuple[DetectorCard, Detector]:
    results = night.run(fit=True)
    total = results[0].statistics
    for result in results[1:]:
        total = merge_statistics(total, result.statistics)  # type: ignore[arg-type]
    calibration = Calibration(np.zeros(2), np.ones(2), np.arange(5.0), np.full(5, 0.2))
    detector = Detector(fit_gaussians(total), calibration)  # type: ignore[arg-type]
    return keep_detector(night.store, detector), detector


def keep_detector(
    store: Store, detector: Detector, slides: int | None = None, alpha: float = 0.05
) -> DetectorCard:
    """Keep a detector under the name ``d``."""
    content = arrays_to_bytes(detector.to_arrays())
    tap = TapCard(width=1, shrinkage=0, condition_number=1, dead_units=0)
    of = {"taps": dict.fromkeys(detector.gaussians, tap), "slides": slides, "alpha": alpha}
    made = card("d", content=content).model_copy(update=of)
    save_detector(store, made, content)
    return made
