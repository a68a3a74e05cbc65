"""Batches that are frozen for a test."""

from datetime import date
from typing import Any

import pyarrow as pa

from storage.batches.ledger import Seal
from storage.batches.manifests import Batch, BatchPlan, freeze_batch
from storage.store import Store
from tasks.images.manifest import SCHEMA
from tasks.images.sorted_rows import SortedRows
from tests.support.models import WHEN


def manifest(rows: int, folder: str = "night") -> pa.Table:
    names = [f"file:///{folder}/{row}.png" for row in range(rows)]
    return pa.Table.from_pylist([{"uri": name} for name in names], SCHEMA)


def freeze(
    store: Store, table: pa.Table | SortedRows, name: str = "night", **options: Any
) -> Batch:
    usual = {
        "images": "night/",
        "limit": None,
        "shard_rows": 4,
        "batch_date": date(2026, 1, 3),
        "started_at": WHEN,
    }
    whole = isinstance(table, pa.Table)
    rows, parts = (len(table), iter([table])) if whole else (table.rows, table.parts())
    return freeze_batch(store, BatchPlan(name=name, **(usual | options)), rows, parts)


def seal(rows: int = 10, failed: int = 1, **options: Any) -> Seal:
    """A seal on the reports of the batch ``night``."""
    failures = {"damaged": failed} if failed else {}
    usual: dict[str, Any] = {"batch": "night", "detector": "d", "model": "tiny", "report": "r"}
    usual |= {"diagnoses": {}, "abnormal": 0, "review": 0, "scored_at": WHEN}
    usual |= {"rows": rows, "scored": rows - failed, "failed": failed, "failures": failures}
    usual |= {f"{kind}_digest": kind for kind in ("report", "shifts")}
    return Seal(**usual | options)
