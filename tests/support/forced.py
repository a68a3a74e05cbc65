"""A batch whose report is not of its latest attempt."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from storage.batches.manifests import Batch
from storage.reports.tables import FIELDS, IMAGES, SLIDES
from storage.store import Store, digest_of
from tasks.images.manifest import SCHEMA
from tests.support.batches import freeze
from tests.support.reports import publish_rows

DAY, WHEN = date(2026, 3, 1), datetime(2026, 3, 1, 6, tzinfo=UTC)
SLIDE = "/slides/a.tiff"


def begin(store: Store, rows: list[dict[str, Any]], attempt: int) -> Batch:
    table = pa.Table.from_pylist(rows, SCHEMA)
    return freeze(store, table, attempt=attempt, shard_rows=8, batch_date=DAY, started_at=WHEN)


def publish(store: Store, batch: Batch, rows: list[dict[str, Any]]) -> None:
    field = {"source_uri": SLIDE, "kind": "field", "x": 0, "y": 0, "width": 100, "height": 100}
    for kind, told in ((IMAGES, rows), (SLIDES, []), (FIELDS, [field | {"cells": 1}])):
        publish_rows(store, kind, told, DAY, attempt=batch.attempt)


def published_and_forced(store: Store, cell: Path) -> None:
    """A batch whose first attempt is published, and whose second has other images."""
    Image.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(cell)
    row = {"uri": str(cell), "source_uri": SLIDE, "x": 5, "y": 5}
    first = begin(store, [row | {"outline": [0.0, 0.0, 4.0, 0.0, 4.0, 4.0]}], 1)
    told = {"image_id": digest_of(cell.read_bytes()), "batch": "night", "model": "m"}
    told |= {"status": "scored", "verdict": "review", "abnormality": 3.0, "width": 9, "height": 9}
    publish(store, first, [row | told])
    other = {"uri": str(cell.with_name("other.png")), "source_uri": SLIDE}
    begin(store, [other, other | {"uri": "another.png"}], 2)
