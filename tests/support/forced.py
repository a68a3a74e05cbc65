"""A batch whose report is not of its latest attempt."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from storage.batches.manifests import Batch
from storage.reports.tables import FIELDS, IMAGES, SLIDES
from storage.store import Store, digest_of
from tests.support.reading import DAY, frozen
from tests.support.reports import publish_rows

SLIDE = "/slides/a.tiff"


def publish(store: Store, batch: Batch, rows: list[dict[str, Any]]) -> None:
    field = {"source_uri": SLIDE, "kind": "field", "x": 0, "y": 0, "width": 100, "height": 100}
    for kind, told in ((IMAGES, rows), (SLIDES, []), (FIELDS, [field | {"cells": 1}])):
        publish_rows(store, kind, told, DAY, attempt=batch.attempt)


def published_and_forced(store: Store, cell: Path) -> None:
    """A batch whose first attempt is published, and whose second has other images."""
    Image.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(cell)
    row = {"uri": str(cell), "source_uri": SLIDE, "x": 5, "y": 5}
    first = frozen(store, [row | {"outline": [0.0, 0.0, 4.0, 0.0, 4.0, 4.0]}])
    told = {"image_id": digest_of(cell.read_bytes()), "batch": "night", "model": "m"}
    told |= {"status": "scored", "verdict": "review", "abnormality": 3.0, "width": 9, "height": 9}
    publish(store, first, [row | told])
    other = {"uri": str(cell.with_name("other.png")), "source_uri": SLIDE}
    frozen(store, [other, other | {"uri": "another.png"}], attempt=2)
