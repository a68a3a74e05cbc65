"""A small published night of cells to read, of the untrained model ``tiny``."""

import zlib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from tifffile import TiffWriter

from storage.batches.manifests import Batch, read_manifest
from storage.models.classifiers import load_card
from storage.reports.tables import BATCHES, IMAGES, PATIENTS, SLIDES
from storage.store import Store, digest_of
from tasks.images.access.files import digest_of_file
from tasks.images.manifest import SCHEMA, Region, address_of
from tasks.images.regions import find, image_refs
from tests.support.batches import freeze
from tests.support.reports import publish_rows

DAY, WHEN = date(2026, 3, 1), datetime(2026, 3, 1, 6, tzinfo=UTC)
FLAGGED = 9


def night(
    store: Store,
    folder: Path,
    cells: int = 24,
    slide: str = "slide",
    name: str = "night",
    flagged: int = FLAGGED,
) -> Batch:
    """Publish a night whose first ``flagged`` cells are abnormal, and odd ones parasitized."""
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
                "probability_Parasitized": 0.99 - 0.01 * i,
                "abnormal": i < flagged,
                "verdict": "review" if i < flagged else "accept",
                "review_reason": "abnormal" if i < flagged else None,
                "abnormality": 5.0 * (1 - i / cells),
                "p_value": 0.001 * i,
                "width": 30,
                "height": 20,
            }
        )
    batch = frozen(store, rows, name)
    publish_rows(store, IMAGES, told, DAY, name)
    calls = [("negative", 2), ("positive", 2)]
    summary = {"batch": name, "images": cells, "review": flagged, "patient_calls": calls}
    publish_rows(store, BATCHES, [summary], DAY, name)
    return batch


def frozen(
    store: Store, rows: list[dict[str, Any]], name: str = "night", attempt: int = 1
) -> Batch:
    table = pa.Table.from_pylist(rows, SCHEMA)
    given = {"shard_rows": 8, "batch_date": DAY, "started_at": WHEN, "attempt": attempt}
    return freeze(store, table, name, **given)


def add_patients(store: Store, called: dict[str, int]) -> None:
    """Publish the reports on patients and slides of `night`: positive ones with called cells."""
    rows = [
        {
            "patient_id": name, "call": "positive" if n else "negative", "cells_called": n,
            "cells_read": 500, "batch": "night", "model": "tiny",
            "batch_date": DAY.isoformat(), "slides": 1,
            "slides_read": 1, "corrected_percent": 2.0, "corrected_low": 1.0, "corrected_high": 3.0,
            "parasites_per_microlitre": 1e5, "limit_of_blank_percent": 0.5,
            "none_above_percent": 3.0, "parasites_per_microlitre_high": 1.5e5,
            "parasitized": 9, "set_aside": [],
        }
        for name, n in called.items()
    ]  # fmt: skip
    slides = [{"slide_id": f"slide {i}", "call": "positive", "batch": "night"} for i in range(2)]
    publish_rows(store, PATIENTS, rows, DAY)
    publish_rows(store, SLIDES, slides, DAY)


def pyramid(path: Path, side: int) -> None:
    """Write a tiled TIFF of three levels: in the middle of every 512 pixels a blue disc of 60."""
    tile = np.full((512, 512, 3), (235, 220, 225), np.uint8)
    y, x = np.mgrid[:512, :512]
    tile[np.hypot(x - 256, y - 256) < 30] = (60, 40, 140)
    with TiffWriter(path, bigtiff=True) as file:
        for shrink in (1, 4, 16):
            small = np.asarray(Image.fromarray(tile).resize((512 // shrink,) * 2))
            length = side // shrink
            # Every tile has the same pixels, so that it is compressed once.
            content = zlib.compress(np.tile(small, (shrink, shrink, 1)).tobytes(), 1)
            count = (-(-length // 512)) ** 2
            file.write(
                (content for _ in range(count)), shape=(length, length, 3), dtype=np.uint8,
                tile=(512, 512), photometric="rgb", compression="zlib",
                subfiletype=0 if shrink == 1 else 1,
            )  # fmt: skip


def slide_night(store: Store, path: Path, cells: list[tuple[int, int]], *chances: float) -> Batch:
    """Publish a night of cells, 60 pixels across, at places in a picture; at x = 0 it cuts them."""
    digest = digest_of_file(path.as_uri())
    regions = [Region(x, y, 60, 60) for x, y in cells]
    manifest = [
        {
            "uri": address_of(path.as_uri(), region), "source_uri": path.as_uri(),
            "source_id": digest.hex(), "x": region.x, "y": region.y, "width": 60, "height": 60,
            "level": 0, "scale": 1.0, "slide_id": "slide", "patient_id": "p", "kind": "red",
        }
        for region in regions
    ]  # fmt: skip
    batch = frozen(store, manifest)
    refs = image_refs(read_manifest(store, batch))
    told = [
        {
            **{name: row[name] for name in ("uri", "source_uri", "x", "y", "level", "kind")},
            **{"width": 60, "height": 60, "slide_id": "slide", "patient_id": "p"},
            **{"image_id": find(ref).image_id.hex(), "batch": "night", "model": "tiny"},
            **{"status": "scored", "diagnosis": "Parasitized", "abnormal": True, "p_value": 0.01},
            **{"verdict": "review", "review_reason": "abnormal", "abnormality": float(i)},
            **{"probability_Parasitized": chances[i] if chances else None},
            **{"touches_border": row["x"] == 0},
        }
        for i, (row, ref) in enumerate(zip(manifest, refs, strict=True))
    ]
    publish_rows(store, IMAGES, told, DAY)
    publish_rows(store, BATCHES, [{"batch": "night"}], DAY)
    return batch
