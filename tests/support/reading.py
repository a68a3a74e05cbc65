"""A small published night of cells to read, of the untrained model ``tiny``."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from storage.batches.features import SCORED, create_features, empty_block, write_block
from storage.batches.manifests import Batch, BatchPlan, freeze_batch, read_manifest
from storage.models.classifiers import load_card
from storage.reports.schemas.batches import batch_schema
from storage.reports.schemas.images import image_schema
from storage.reports.tables import BATCHES, of_attempt, publish_report, report_path
from storage.store import Store, digest_of
from tasks.images.decoding import DECODING
from tasks.images.manifest import SCHEMA

DAY, WHEN = date(2026, 3, 1), datetime(2026, 3, 1, 6, tzinfo=UTC)
FLAGGED = 9


def night(
    store: Store, folder: Path, cells: int = 24, slide: str = "slide", name: str = "night"
) -> Batch:
    """Publish a night whose first `FLAGGED` cells are abnormal, and whose odd ones parasitized."""
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    for i in range(cells):
        path = folder / f"{i}.png"
        Image.fromarray(np.full((20, 30, 3), i, np.uint8)).save(path)
        about = {"uri": str(path), "slide_id": f"{slide} {i % 2}", "patient_id": f"p{i % 4}"}
        rows.append(about)
        told.append(
            about
            | {
                "image_id": digest_of(path.read_bytes()),
                "batch": name,
                "model": "tiny",
                "status": "scored",
                "diagnosis": load_card(store, "tiny").classes[(i + 1) % 2],
                "abnormal": i < FLAGGED,
                "verdict": "review" if i < FLAGGED else "accept",
                "review_reason": "abnormal" if i < FLAGGED else None,
                "abnormality": float(cells - i),
                "p_value": 0.001 * i,
                "width": 30,
                "height": 20,
            }
        )
    plan = BatchPlan(
        name=name, attempt=1, images="night/", limit=None, shard_rows=8, batch_date=DAY,
        started_at=WHEN,
    )  # fmt: skip
    batch = freeze_batch(store, plan, pa.Table.from_pylist(rows, SCHEMA))
    schema = of_attempt(image_schema(load_card(store, "tiny").classes, ["tap"]), 1)
    publish_report(store, report_path(name, DAY), schema, [pa.Table.from_pylist(told, schema)])
    columns = batch_schema()
    row = pa.Table.from_pylist([{"batch": name}], columns)
    publish_report(store, report_path(name, DAY, BATCHES), of_attempt(columns, 1), [row])
    return batch


def add_features(store: Store, batch: Batch) -> None:
    """Give the cells of a night features in which every third cell is like the others of these."""
    card = load_card(store, "tiny")
    create_features(
        store, "tiny", batch.key, rows=batch.rows, shard_rows=batch.shard_rows,
        tap_widths=card.tap_widths, classes=len(card.classes), digests={"model": card.digest},
        decoding=DECODING,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    ids = [
        digest_of(Path(uri).read_bytes()) for uri in read_manifest(store, batch)["uri"].to_pylist()
    ]
    for shard in batch.shards():
        rows = np.arange(shard.start, shard.stop)
        block = empty_block(len(rows), card.tap_widths, len(card.classes))
        for values in block.taps.values():
            values[:] = rng.standard_normal(values.shape) + 20 * (rows % 3)[:, None]
        block.status[:] = SCORED
        block.logits[:] = 0
        block.image_id[:] = [np.frombuffer(bytes.fromhex(ids[row]), np.uint8) for row in rows]
        write_block(store, "tiny", batch.key, shard.start, block)
