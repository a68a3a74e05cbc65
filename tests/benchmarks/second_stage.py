"""Score a night of slides whose features are made up, and tell what it took as one JSON object.

``python -m tests.benchmarks.second_stage STORE SLIDES CELLS``. The night lies in the store as the
first stage leaves one; the detector is that of `tests.support.laboratories`.
"""

import json
import sys
import time

import numpy as np
import pyarrow as pa

from flows.cluster.client import open_client
from flows.jobs.scoring.screened import Screened
from flows.settings import Settings
from flows.stages.scoring import score
from storage.batches.features import SCORED, FeatureBlock, write_block
from storage.batches.ledger import ShardRecord, write_shard_record
from storage.batches.manifests import Batch, read_manifest
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard, TapCard, save_detector
from storage.records import arrays_to_bytes
from storage.store import Store, digest_of
from tasks.images.manifest import SCHEMA
from tests.support import laboratories, models, shards
from tests.support.peak import peak, resident

MODEL = ModelCard(
    created_at=models.WHEN, digest="m", name="m", network={"classes": list(models.CLASSES)},
    preprocessing="RGB", tap_widths=laboratories.WIDTHS, temperature=1.0, split_by="patient",
    split={"train": [], "validation": [], "test": []}, training={}, metrics={}, versions={},
    sequence=0,
)  # fmt: skip


def keep_detector(store: Store) -> DetectorCard:
    """Keep a detector of 30 simulated slides, which knows how slides differ."""
    content = arrays_to_bytes(laboratories.detector().to_arrays())
    card = DetectorCard(
        created_at=models.WHEN, digest=digest_of(content), name="d", model=MODEL.name,
        model_digest=MODEL.digest, statistics_version=1,
        taps={
            tap: TapCard(width=width, shrinkage=0.0, condition_number=1.0, dead_units=0)
            for tap, width in laboratories.WIDTHS.items()
        },
        images=dict.fromkeys(models.CLASSES, 1_000), calibrated_by="patient", calibrating_groups=30,
        calibrating_images=2_000, alpha=0.05, uncertain_below=0.75, warnings=[], slides=30,
        sequence=0,
    )  # fmt: skip
    save_detector(store, card, content)
    return card


def make_night(store: Store, slides: int, cells: int, shard_rows: int) -> Batch:
    """Freeze a night of so many slides of so many cells each, and write its features."""
    rows = slides * cells
    number = np.arange(rows) // cells
    names = {kind: pa.array([f"{kind}{i:04d}" for i in range(slides)]) for kind in "SP"}
    there = {
        "uri": pa.array([f"file:///night/{row}.png" for row in range(rows)]),
        "slide_id": names["S"].take(pa.array(number)),
        "patient_id": names["P"].take(pa.array(number)),
    }
    columns = [there.get(each.name, pa.nulls(rows, each.type)) for each in SCHEMA]
    manifest = pa.Table.from_arrays(columns, schema=SCHEMA)
    batch = shards.freeze_night(store, manifest, "night", MODEL, shard_rows).batch
    rng = np.random.default_rng(0)
    shifts = {tap: rng.normal(size=(slides, width)) for tap, width in laboratories.WIDTHS.items()}
    for shard in batch.shards():
        own = number[shard.start : shard.stop]
        block = some_cells(rng, {tap: shift[own] for tap, shift in shifts.items()})
        digest = write_block(store, MODEL.name, batch.key, shard.start, block)
        write_shard_record(store, batch, MODEL.name, ShardRecord(
            shard=shard.number, start=shard.start, stop=shard.stop, scored=len(block),
            failures=[], tries=1, digest=digest, versions={},
        ))  # fmt: skip
    return batch


def some_cells(rng: np.random.Generator, shifts: dict[str, np.ndarray]) -> FeatureBlock:
    """Make cells of the population of `tests.support.laboratories`, each shifted (n, d) as its
    slide.
    """
    n = len(next(iter(shifts.values())))
    classes = rng.integers(0, len(models.CLASSES), n)
    return FeatureBlock(
        taps={
            tap: (laboratories.MEANS[tap][classes] + shift + rng.normal(size=shift.shape)).astype(
                "f4"
            )
            for tap, shift in shifts.items()
        },
        logits=np.where(classes[:, np.newaxis] == [0, 1], 4, -4).astype(np.float32),
        label=np.full(n, -1, np.int8),
        status=np.full(n, SCORED, np.uint8),
        image_id=rng.integers(0, 256, (n, 32), np.uint8),
        size=np.full((n, 2), 100, np.int32),
        colour=np.full((n, 3), 128, np.float32),
    )


def footer(store: Store, batch: Batch) -> float:
    """MiB that the footer of the manifest takes, which tells of every shard."""
    before = resident()
    read_manifest(store, batch, batch.shard(0))
    return resident() - before


def score_night(settings: Settings, batch: Batch, detector: DetectorCard) -> dict[str, float]:
    """Score a night on one worker; returns MiB, and seconds."""
    store = Store(settings.store)
    with open_client(settings) as client:
        (of_manifest,) = client.run(footer, store, batch).values()
        started = time.perf_counter()
        of = Screened(store, batch, MODEL, detector)
        parts = len(score(client, of).parts)
        seconds = time.perf_counter() - started
        (worker,) = client.run(peak).values()
    return {"worker": worker, "footer": of_manifest, "parts": parts, "seconds": seconds}


if __name__ == "__main__":
    url, slides, cells = sys.argv[1:]
    chosen = Settings(store=url, workers=1)
    kept = keep_detector(Store(url))
    night = make_night(Store(url), int(slides), int(cells), chosen.shard_rows)
    print(json.dumps(score_night(chosen, night, kept)))
