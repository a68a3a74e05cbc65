"""Write the golden store of this version: ``python -m tests.system.golden.make_golden``.

It must open with the values of `values`. A change of what is stored needs a higher schema version
and another golden store. Those of published versions stay, because from 1.0 on every version reads
the stores of all since.
"""

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage import kinds
from storage.batches import features, ledger, manifests
from storage.models.classifiers import ModelCard, save_model
from storage.models.detectors import DetectorCard, LearnedCard, LearnedNight, TapCard, save_detector
from storage.models.statistics import Contribution, Lineage, save_statistics
from storage.models.tunings import BatchTuning
from storage.parquet import write_table
from storage.records import arrays_to_bytes
from storage.reports.publication import publication
from storage.reports.schemas.images import image_schema
from storage.reports.tables import BATCHES, IMAGES, PATIENTS, SLIDES, report_path
from storage.smears.call_seals import CallSeal, write_call_seal
from storage.smears.learned import save_night
from storage.store import Store, digest_of
from tasks.images.manifest import SCHEMA
from tasks.reports.image_columns import SHIFTS
from tests.support.paths import ROOT
from tests.system.golden import values
from tests.system.golden.values import BLOCK, CLASSES, DAY, FAILURE, ROWS, SHARD_ROWS, WHEN

FOLDER = Path(__file__).parent
ROW_OF = {SLIDES: values.SLIDE, PATIENTS: values.PATIENT, BATCHES: values.BATCH}


def write_store(store: Store) -> None:
    """A model, a batch with features, statistics, a detector, a laboratory and sealed reports."""
    model = write_model(store)
    batch = write_batch(store, model)
    lineage = write_statistics(store, batch)
    detector = write_detector(store, model, lineage)
    write_laboratory(store, batch, detector)
    write_reports(store, batch)


def write_model(store: Store) -> ModelCard:
    weights = arrays_to_bytes(values.WEIGHTS)
    network = {"architecture": "none", "classes": CLASSES, "arithmetic": "float32"}
    card = ModelCard(
        created_at=WHEN, digest=digest_of(weights), name="golden", network=network,
        preprocessing="RGB", tap_widths={"layer1": 2, "layer2": 1}, temperature=1.5,
        split_by="patient", split={"train": ["P1"], "validation": ["P2"], "test": ["P3"]},
        training={"epochs": 1}, metrics={"accuracy": 0.5}, versions={"torch": "2.6"}, sequence=1,
    )  # fmt: skip
    save_model(store, card, weights)
    return card


def write_batch(store: Store, model: ModelCard) -> manifests.Batch:
    """A batch, its features and its ledger."""
    there = {name: values.IMAGES[name] for name in ("uri", "label", "slide_id", "patient_id")}
    there |= {"size": range(ROWS), "acquired_at": [WHEN.replace(tzinfo=None)] * ROWS}
    plan = manifests.BatchPlan(
        name="night", images="night/", limit=None, shard_rows=SHARD_ROWS, batch_date=DAY,
        started_at=WHEN, sequence=1,
    )  # fmt: skip
    batch = manifests.freeze_batch(store, plan, ROWS, iter([table_of(SCHEMA, there, ROWS)]))
    features.create_features(
        store, "golden", batch, tap_widths=model.tap_widths, classes=CLASSES,
        digest=model.digest, decoding=1,
    )  # fmt: skip
    for shard in batch.shards():
        block = BLOCK.take(np.arange(shard.start, shard.stop))
        bad = [row for row, status in enumerate(block.status) if status == features.FAILED]
        reason, message = FAILURE.split(": ")
        if bad:
            ledger.write_quarantine(store, batch, "golden", shard, bad)
        digest = features.write_block(store, "golden", "night", shard.start, block)
        record = ledger.ShardRecord(
            shard=shard.number, start=shard.start, stop=shard.stop, scored=len(block) - len(bad),
            failures=[ledger.Failure(row=row, reason=reason, message=message) for row in bad],
            tries=1 + len(bad), digest=digest, versions={"numpy": "2.0"},
        )  # fmt: skip
        ledger.write_shard_record(store, batch, "golden", record)
    return batch


def write_statistics(store: Store, batch: manifests.Batch) -> Lineage:
    """Statistics of the batch."""
    moments = arrays_to_bytes(values.STATISTICS)
    contribution = Contribution(
        batch="night", attempt=1, manifest_digest=batch.manifest_digest, images=5, held_out=0,
        without_patients=("P9",), without_slides=("S9",), repeated_held_out=(4,),
    )  # fmt: skip
    lineage = Lineage(
        created_at=WHEN, digest=digest_of(moments), model="golden", version=1, parent=None,
        operation="merge", contributions=[contribution],
        images={"Parasitized": 2, "Uninfected": 3},
    )  # fmt: skip
    save_statistics(store, lineage, moments)
    return lineage


def write_detector(store: Store, model: ModelCard, lineage: Lineage) -> DetectorCard:
    """A detector with all that one can have."""
    content = arrays_to_bytes(values.DETECTOR)
    card = DetectorCard(
        created_at=WHEN, digest=digest_of(content), name="golden", model="golden",
        model_digest=model.digest, statistics_version=1,
        taps={"layer1": TapCard(width=2, shrinkage=0.125, condition_number=4, dead_units=0),
              "layer2": TapCard(width=1, shrinkage=0.25, condition_number=1, dead_units=0)},
        images=lineage.images, calibrated_by="patient", calibrating_groups=3,
        calibrating_images=3, alpha=0.05, uncertain_below=0.75, warnings=["it is tiny"],
        slides=3, sequence=1, counting=values.COUNTING_CARD,
        floor=values.FLOOR_CARD, witnesses=values.WITNESS_CARD,
    )  # fmt: skip
    save_detector(store, card, content)
    return card


def write_laboratory(store: Store, batch: manifests.Batch, detector: DetectorCard) -> None:
    """A detector that has learned a night of a laboratory."""
    content = arrays_to_bytes(values.AT_LABORATORY)
    night = LearnedNight(
        batch="night", attempt=1, manifest_digest=batch.manifest_digest, slides=2, cells=5,
        digest=save_night(store, values.LABORATORY, arrays_to_bytes(values.NIGHT)),
        negative=("S1",),
    )  # fmt: skip
    learned = LearnedCard(
        operation="commission night", nights=[night], false_alarms={"0.05": 0.0625}
    )
    card = detector.model_copy(update={
        "digest": digest_of(content), "name": values.COMMISSIONED, "sequence": 2,
        "parent": detector.name, "learned": learned, "adaptation": values.ADAPTATION_CARD,
        "tuning": BatchTuning(tuning=None, why="it is tiny"),
    })  # fmt: skip
    save_detector(store, card, content)


def write_reports(store: Store, batch: manifests.Batch) -> None:
    """The reports of the batch at the laboratory, which are sealed and announced."""
    images = image_schema(CLASSES, ["layer1", "layer2"])
    with publication(store, batch) as reports:
        reports.add(IMAGES, images, [table_of(images, values.IMAGES, ROWS)])
        for kind, row in ROW_OF.items():
            schema = kinds.tables()[kind].schema([], [])
            found = {name: [value] for name, value in row.items()}
            reports.add(kind, schema, [table_of(schema, found, 1)])
        reports.appear()
    slides = ledger.slides_path(batch, values.COMMISSIONED)
    write_table(store, SHIFTS.empty_table(), *slides)
    seal = ledger.Seal(
        batch="night", detector=values.COMMISSIONED, model="golden",
        report="/".join(report_path("night", DAY)), report_digest=reports.digests[IMAGES],
        shifts_digest=store.digest(*slides),
        rows=ROWS, scored=4, failed=1, diagnoses={"Parasitized": 0, "Uninfected": 4}, abnormal=1,
        review=2, failures={"killed_worker": 1}, scored_at=WHEN,
    )  # fmt: skip
    begun = ledger.Screening(scored_at=WHEN)
    begun.write(store, "batches", "night", "screenings", f"{seal.detector}.json")
    ledger.write_seal(store, batch, seal)
    digests = {kind: each for kind, each in reports.digests.items() if kind != IMAGES}
    calls = CallSeal(report_digest=seal.report_digest, digests=digests)
    write_call_seal(store, batch, seal.detector, calls)
    ledger.note_announced(store, batch, seal)


def table_of(schema: pa.Schema, found: Mapping[str, Sequence[Any]], rows: int) -> pa.Table:
    """A table of all columns of a schema; those without values are null."""
    columns = [pa.array(found.get(each.name, [None] * rows), each.type) for each in schema]
    return pa.table(columns, schema=schema)


if __name__ == "__main__":
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    shutil.rmtree(FOLDER / f"v{version}", ignore_errors=True)
    write_store(Store(str(FOLDER / f"v{version}")))
    (FOLDER / f"v{version}" / ".staged").rmdir()
