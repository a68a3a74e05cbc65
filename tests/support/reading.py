"""A small published night of cells to read, of the untrained model ``tiny``."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from storage.batches.manifests import Batch, BatchPlan, freeze_batch
from storage.models.classifiers import load_card
from storage.reports.schemas.images import image_schema
from storage.reports.tables import of_attempt, publish_report, report_path
from storage.store import Store, digest_of
from tasks.images.manifest import SCHEMA

DAY, WHEN = date(2026, 3, 1), datetime(2026, 3, 1, 6, tzinfo=UTC)
FLAGGED = 9


def night(store: Store, folder: Path, cells: int = 24, slide: str = "slide") -> Batch:
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
                "batch": "night",
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
        name="night", attempt=1, images="night/", limit=None, shard_rows=8, batch_date=DAY,
        started_at=WHEN,
    )  # fmt: skip
    batch = freeze_batch(store, plan, pa.Table.from_pylist(rows, SCHEMA))
    schema = of_attempt(image_schema(load_card(store, "tiny").classes, ["tap"]), 1)
    publish_report(store, report_path("night", DAY), schema, [pa.Table.from_pylist(told, schema)])
    return batch
