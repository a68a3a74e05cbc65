"""Choose the cells that readers see: those for review, and others mixed in unmarked.

A reader who sees only cells that the machine flagged cannot find the ones it missed, and learns to
expect something. So some cells that were not flagged are mixed in. Every reader gets the same
cells, in a different order.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.reports.image_columns import is_for_review
from tasks.smears.answers.sheets import candidates
from tasks.types import Status

# The columns to read of a report.
COLUMNS = (
    "image_id", "batch", "uri", "slide_id", "patient_id", "diagnosis", "abnormality", "p_value",
    "review_reason", "verdict", "status", "abnormal",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """The cells that readers see, a table of `COLUMNS` and ``flagged``, and counts of the batch.

    ``of`` counts the batch's scored cells, which the chosen ones represent, by whether they are
    flagged and by diagnosis.
    """

    rows: pa.Table
    of: Mapping[tuple[bool, str], int]


def choose(scored: pa.Table, *, limit: int, per_slide: int, unmarked: float) -> Sample:
    """Choose cells for review, the most abnormal first, and a random share of others.

    The choice depends only on the batch, so all readers get the same cells at any time. ``scored``
    is from `scored_cells`. At most ``limit`` cells are for review, ``per_slide`` of a slide;
    ``unmarked`` is the share of others among all chosen, in [0, 1).
    """
    keys = zip(scored["flagged"].to_pylist(), scored["diagnosis"].to_pylist(), strict=True)
    marked, _ = candidates(iter([scored]), done=(), per_slide=per_slide)
    marked = marked.slice(0, limit)
    others = scored.filter(pc.invert(scored["flagged"]))
    wanted = round(marked.num_rows * unmarked / (1 - unmarked)) if marked.num_rows else limit
    order = ordered(others["image_id"].to_pylist(), "unmarked")
    chosen = [*marked["image_id"].to_pylist(), *order[: min(wanted, limit)]]
    keep = pc.is_in(scored["image_id"].cast(pa.string()), pa.array(chosen, pa.string()))
    return Sample(scored.filter(keep), Counter(keys))


def recalled(scored: pa.Table, image_ids: Iterable[str]) -> pa.Table:
    """Find the rows of cells that were chosen before among those of `scored_cells`."""
    wanted = pa.array(list(image_ids), pa.string())
    return scored.filter(pc.is_in(scored["image_id"].cast(pa.string()), wanted))


def scored_cells(parts: Iterable[pa.Table]) -> pa.Table:
    """Collect the scored cells of a report, each once, and mark those for review as ``flagged``.

    The parts are image rows of `COLUMNS`, all rows of a batch in order.

    Returns:
        Their rows, with ``flagged``, and ``row``: the number in the batch.
    """
    # A night without images has no parts.
    none = pa.table({name: pa.nulls(0, pa.string()) for name in COLUMNS})
    rows = pa.concat_tables(list(parts) or [none]).unify_dictionaries()
    rows = rows.append_column("flagged", pa.array(np.asarray(is_for_review(rows), bool)))
    rows = rows.append_column("row", pa.array(np.arange(rows.num_rows)))
    return _once(rows.filter(pc.equal(rows["status"].cast(pa.string()), Status.SCORED)))


def _once(rows: pa.Table) -> pa.Table:
    """Keep the first row of each image."""
    _, first = np.unique(np.asarray(rows["image_id"].to_pylist(), object), return_index=True)
    return rows.take(pa.array(np.sort(first), pa.int64()))


def ordered(image_ids: Iterable[str], reader: str) -> list[str]:
    """Shuffle digests of images in an order that is always the same for one reader."""
    return sorted(image_ids, key=lambda each: sha256(f"{reader}\0{each}".encode()).digest())
