"""A photograph of six cells, cut up and screened."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from storage.reports.tables import FIELDS, IMAGES
from storage.store import Store
from tasks.images.manifest import SCHEMA
from tasks.images.regions import find, image_refs
from tests.support import batches, reading, reports

CELLS, SIDE = 6, 60  # cells of a photograph, at every 100 pixels


def screened_photograph(store: Store, folder: Path) -> Store:
    """Draw a photograph, and keep it in a store with a model as if it was cut up and screened."""
    path = folder / "field.png"
    image = Image.new("RGB", (CELLS * 100, 120), "white")
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.round(SIDE / 2 + SIDE / 2.2 * np.column_stack([np.cos(angles), np.sin(angles)]), 2)
    rows: list[dict[str, Any]] = []
    for i in range(CELLS):
        box = {"x": 100 * i + 10, "y": 20, "width": SIDE, "height": SIDE}
        fill = (200, 100 + i, 120)
        ImageDraw.Draw(image).ellipse([box["x"], 20, box["x"] + SIDE, 20 + SIDE], fill=fill)
        uri = f"{path}#xywh={box['x']},20,{SIDE},{SIDE}"
        rows.append(
            {"uri": uri, "source_uri": str(path), "slide_id": "s", "patient_id": "p", "level": 0,
             "kind": "red", "scale": 2.0, "outline": circle.ravel().tolist(), **box}
        )  # fmt: skip
    image.save(path)
    manifest = pa.Table.from_pylist(rows, SCHEMA)
    batches.freeze(store, manifest, batch_date=reading.DAY, started_at=reading.WHEN)
    same = ("uri", "source_uri", "slide_id", "patient_id", "x", "y", "width", "height", "kind")
    told = [
        {**{name: row[name] for name in same}, "image_id": find(ref).image_id.hex(),
         "batch": "night", "model": "tiny", "status": "scored", "diagnosis": "Uninfected",
         "abnormal": i == 0, "verdict": "accept"}
        for i, (row, ref) in enumerate(zip(rows, image_refs(manifest), strict=True))
    ]  # fmt: skip
    reports.publish_rows(store, IMAGES, told, reading.DAY)
    field = {"source_uri": str(path), "kind": "field", "x": 0, "y": 0, "width": 600, "height": 120}
    reports.publish_rows(store, FIELDS, [field], reading.DAY)
    return store
