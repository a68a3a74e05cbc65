"""Write a golden store: ``python -m tests.system.golden.make_golden tests/system/golden/v9``.

One is made and committed whenever a schema version changes; those that are there stay as they
are. All hold the same values, those below, and must open for ever; from v4 on those of `slides`,
from v5 on those of `counts`, from v6 on those of `floors`, from v7 on those of `witnesses`, too,
and from v9 on the features have platelets.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.arrays import Arrays, arrays_to_bytes
from storage.batches.features import FAILED, SCORED, FeatureBlock, create_features, write_block
from storage.batches.ledger import (
    Failure,
    Screening,
    Seal,
    ShardRecord,
    note_announced,
    write_quarantine,
    write_seal,
    write_shard_record,
)
from storage.batches.manifests import Batch, BatchPlan, freeze_batch
from storage.models.classifiers import ModelCard, save_model
from storage.models.detectors import DetectorCard, TapCard, save_detector
from storage.models.laboratories import LaboratoryCard, LaboratoryNight, save_laboratory, save_night
from storage.models.statistics import Contribution, Lineage, save_statistics
from storage.reports.publication import SCHEMAS, publication
from storage.reports.schemas.images import image_schema
from storage.reports.tables import BATCHES, IMAGES, PATIENTS, SLIDES, report_path
from storage.store import Store, digest_of
from tasks.images.manifest import SCHEMA
from tasks.types import nested
from tests.system.golden import counts, floors, slides, witnesses

WHEN = datetime(2026, 1, 3, 8, tzinfo=UTC)
DAY = date(2026, 1, 3)
CLASSES = ["Parasitized", "Uninfected"]
ROWS, SHARD_ROWS, BAD = 5, 3, 4
URIS = [f"file:///night/{row}.png" for row in range(ROWS)]
FAILURE = "killed_worker: this image alone kills the worker that decodes it"


def good_rows(values: NDArray[Any]) -> NDArray[Any]:
    """The values, without those of the row that failed."""
    values[BAD] = np.nan if values.dtype.kind == "f" else 0
    return values


WEIGHTS: Arrays = {
    "conv.weight": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2),
    "norm.seen": np.asarray(7),
}
BLOCK = FeatureBlock(
    taps={
        "layer1": good_rows(np.arange(10, dtype=np.float32).reshape(5, 2) / 4),
        "layer2": good_rows(np.arange(5, dtype=np.float32).reshape(5, 1) / 8),
    },
    logits=good_rows(np.linspace(-2, 2, 10, dtype=np.float32).reshape(5, 2)),
    label=np.asarray([0, 1, -1, 1, 0], np.int8),
    status=np.asarray([SCORED, SCORED, SCORED, SCORED, FAILED], np.uint8),
    image_id=good_rows(np.arange(1, 161, dtype=np.uint8).reshape(5, 32)),
    size=good_rows(np.arange(100, 110, dtype=np.int32).reshape(5, 2)),
    colour=good_rows(np.arange(100, 115, dtype=np.float32).reshape(5, 3)),
    platelet=good_rows(np.asarray([0, 1, 0, 0, 0], np.uint8)),
)
MOMENTS: Arrays = {
    f"{tap}/raw/{name}": values
    for tap, width in (("layer1", 2), ("layer2", 1))
    for name, values in {
        "n": np.asarray([2.0, 3.0]),
        "mean": np.arange(2.0 * width).reshape(2, width),
        "scatter": np.stack([np.eye(width), np.eye(width) / 2]),
    }.items()
}
DETECTOR: Arrays = {
    "calibration/mean": np.asarray([0.0, 1.0]),
    "calibration/deviation": np.asarray([1.0, 2.0]),
    "calibration/scores": np.asarray([-1.0, 0.0, 1.0]),
    "calibration/weights": np.asarray([0.25, 0.25, 0.5]),
    "tap/layer1/means": np.asarray([[0.0, 0.0], [1.0, 1.0]]),
    "tap/layer1/factor": np.asarray([[2.0, 0.0], [0.0, 4.0]]),
    "tap/layer1/shrinkage": np.asarray([0.125]),
    "tap/layer2/means": np.asarray([[0.0], [4.0]]),
    "tap/layer2/factor": np.asarray([[0.5]]),
    "tap/layer2/shrinkage": np.asarray([0.25]),
}
REPORT = {
    "uri": URIS,
    "label": ["Parasitized", "Uninfected", None, "Uninfected", "Parasitized"],
    "width": [100, 102, 104, 106, None],
    "status": ["scored"] * 4 + ["failed"],
    "failure": [None] * 4 + [FAILURE],
    "diagnosis": ["Uninfected"] * 4 + [None],
    "probability_Uninfected": [0.625, 0.625, 0.75, 0.875, None],
    "distance_layer1": [0.25, 0.5, 1.0, 4.0, None],
    "abnormality": [-1.0, 0.0, 0.5, 2.0, None],
    "p_value": [1.0, 0.75, 0.5, 0.03125, None],
    "q_value": [1.0, 1.0, 1.0, 0.125, None],
    "abnormal": [False, False, False, True, None],
    "verdict": ["accept"] * 3 + ["review"] * 2,
    "review_reason": [None] * 3 + ["abnormal", "failed"],
    "batch_date": [DAY.isoformat()] * ROWS,
    "scored_at": [WHEN] * ROWS,
}


def write_store(store: Store) -> None:
    """A model, a batch with features, statistics, a detector, a laboratory and sealed reports."""
    model = write_model(store)
    batch = write_batch(store, model)
    lineage = write_statistics(store, batch)
    detector = write_detector(store, model, lineage)
    write_laboratory(store, batch, detector)
    write_reports(store, batch)


def write_model(store: Store) -> ModelCard:
    weights = arrays_to_bytes(WEIGHTS)
    card = ModelCard(
        created_at=WHEN, digest=digest_of(weights), name="golden",
        network={"architecture": "none", "classes": CLASSES}, preprocessing="RGB",
        tap_widths={"layer1": 2, "layer2": 1}, temperature=1.5, split_by="patient",
        split={"train": ["P1"], "validation": ["P2"], "test": ["P3"]}, training={"epochs": 1},
        metrics={"accuracy": 0.5}, versions={"torch": "2.6"}, sequence=1,
    )  # fmt: skip
    save_model(store, card, weights)
    return card


def write_batch(store: Store, model: ModelCard) -> Batch:
    """A batch, its features and its ledger."""
    there = {
        "uri": URIS, "size": range(ROWS), "label": REPORT["label"], "slide_id": ["S1"] * ROWS,
        "patient_id": ["P1"] * ROWS, "acquired_at": [WHEN.replace(tzinfo=None)] * ROWS,
    }  # fmt: skip
    plan = BatchPlan(
        name="night", images="night/", limit=None, shard_rows=SHARD_ROWS, batch_date=DAY,
        started_at=WHEN, sequence=1,
    )  # fmt: skip
    batch = freeze_batch(store, plan, table_of(SCHEMA, there, ROWS))
    create_features(
        store, "golden", "night", rows=ROWS, shard_rows=SHARD_ROWS,
        tap_widths={"layer1": 2, "layer2": 1}, classes=2,
        digests={"manifest": batch.manifest_digest, "model": model.digest}, decoding=3,
    )  # fmt: skip
    for shard in batch.shards():
        block = BLOCK.take(np.arange(shard.start, shard.stop))
        bad = [row for row, status in enumerate(block.status) if status == FAILED]
        reason, message = FAILURE.split(": ")
        if bad:
            write_quarantine(store, batch, "golden", shard, bad)
        write_block(store, "golden", "night", shard.start, block)
        record = ShardRecord(
            shard=shard.number, start=shard.start, stop=shard.stop, scored=len(block) - len(bad),
            failures=[Failure(row=row, reason=reason, message=message) for row in bad],
            tries=1 + len(bad), digest=block.digest(), versions={"numpy": "2.0"},
        )  # fmt: skip
        write_shard_record(store, batch, "golden", record)
    return batch


def write_statistics(store: Store, batch: Batch) -> Lineage:
    """Statistics of the batch."""
    moments = arrays_to_bytes(MOMENTS | nested("slides", slides.SLIDES) | counts.ERRORS)
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
    """A detector that knows how slides differ."""
    content = arrays_to_bytes(
        DETECTOR | slides.OWN | floors.FLOOR | counts.RATES | witnesses.WITNESSES
    )
    card = DetectorCard(
        created_at=WHEN, digest=digest_of(content), name="golden", model="golden",
        model_digest=model.digest, statistics_version=1,
        taps={"layer1": TapCard(width=2, shrinkage=0.125, condition_number=4, dead_units=0),
              "layer2": TapCard(width=1, shrinkage=0.25, condition_number=1, dead_units=0)},
        images=lineage.images, calibrated_by="patient", calibrating_groups=3,
        calibrating_images=3, alpha=0.05, uncertain_below=0.75, warnings=["it is tiny"],
        slides=3, sequence=1, counting=counts.CARD,
        floor=floors.CARD, witnesses=witnesses.CARD,
    )  # fmt: skip
    save_detector(store, card, content)
    return card


def write_laboratory(store: Store, batch: Batch, detector: DetectorCard) -> None:
    """A version of a laboratory with one night, which a person commissioned."""
    normal = slides.AT_LABORATORY | floors.FLOOR | counts.RATES | witnesses.AT_LABORATORY
    content = arrays_to_bytes(normal)
    added = slides.NIGHT | counts.ERRORS | counts.LABELLED | witnesses.SEEN
    night = LaboratoryNight(
        batch="night", attempt=1, manifest_digest=batch.manifest_digest, slides=2, cells=5,
        digest=save_night(store, slides.LABORATORY, arrays_to_bytes(added)),
        negative=("S1",),
    )  # fmt: skip
    card = LaboratoryCard(
        created_at=WHEN, digest=digest_of(content), name=slides.LABORATORY, version=1, parent=None,
        operation="commission night", detector="golden",
        detector_digest=detector.digest, model="golden", model_digest=detector.model_digest,
        statistics_version=1, nights=[night], slides=2, cells=5, calibrating_slides=2,
        false_alarms={"0.05": 0.0625}, warnings=["it is tiny"], counting=counts.CARD,
        adaptation=counts.ADAPTATION.model_copy(update={"statistics": True}),
    )  # fmt: skip
    save_laboratory(store, card, content)


def write_reports(store: Store, batch: Batch) -> None:
    """The reports of the batch at the laboratory, which are sealed and announced."""
    images = image_schema(CLASSES, ["layer1", "layer2"])
    with publication(store, batch) as reports:
        reports.add(
            IMAGES,
            images,
            [table_of(images, REPORT | slides.IMAGES | witnesses.IMAGE, ROWS)],
        )
        values_of = {
            SLIDES: slides.SLIDE | counts.COUNTED | floors.SLIDE,
            PATIENTS: counts.PATIENT,
            BATCHES: slides.BATCH | counts.BATCH | floors.BATCH,
        }
        for kind, values in values_of.items():
            schema = SCHEMAS[kind]()
            reports.add(kind, schema, [table_of(schema, {**values, "scored_at": [WHEN]}, 1)])
        reports.appear()
    seal = Seal(
        batch="night", detector="golden", model="golden",
        report="/".join(report_path("night", DAY)), report_digest=reports.digests[IMAGES],
        slides_digest=reports.digests[SLIDES], batch_digest=reports.digests[BATCHES],
        patients_digest=reports.digests[PATIENTS],
        rows=ROWS, scored=4, failed=1, diagnoses={"Parasitized": 0, "Uninfected": 4}, abnormal=1,
        review=2, failures={"killed_worker": 1}, scored_at=WHEN, laboratory=slides.LABEL,
    )  # fmt: skip
    begun = Screening(scored_at=WHEN, laboratory_version=1)
    begun.write(store, "batches", "night", "screenings", f"{seal.key}.json")
    write_seal(store, batch, seal)
    note_announced(store, batch, seal)


def table_of(schema: pa.Schema, values: Mapping[str, Sequence[Any]], rows: int) -> pa.Table:
    """A table of all columns of a schema; those without values are null."""
    columns = [pa.array(values.get(each.name, [None] * rows), each.type) for each in schema]
    return pa.table(columns, schema=schema)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()  # a golden store is never written again
    write_store(Store(str(folder)))
    (folder / ".staged").rmdir()
