"""Read columns of image rows as arrays, and make columns of counts."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.types import Float

GREEN, AMBER, RED = "green", "amber", "red"
FAILED = "failed"
FIELD, EMPTY = "field", "empty"  # kinds of places: their cells are read; there is no stain
ACCEPT, REVIEW = "accept", "review"
COLOURS = ("red", "green", "blue")
RED, WHITE = "red", "white"  # kinds of cells that were found in a field
PARASITIZED = "Parasitized"


def share(count: NDArray[np.int64], total: NDArray[np.int64]) -> pa.Array:
    """The share count / total, null where the total is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return pa.array(count / total, pa.float64(), from_pandas=True)


def as_map(counters: Iterable[Counter[str] | None]) -> pa.Array:
    """Counters as maps from reason to count, sorted: the same counts are the same bytes."""
    kind = pa.map_(pa.string(), pa.int64())
    found = [None if counter is None else sorted(counter.items()) for counter in counters]
    return pa.array(found, kind)


def coded(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str | None]]:
    """Text as numbers (n,) and what they stand for; null is a value like any other."""
    text = column.cast(pa.string()).combine_chunks()
    encoded = text.dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def flags(rows: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which image rows (n,) are scored, abnormal, and uncertain."""
    return (
        _is(pc.equal(rows["status"].cast(pa.string()), "scored")),
        _is(rows["abnormal"]),
        _is(pc.match_substring(rows["review_reason"].cast(pa.string()), "uncertain")),
    )


def is_red_cell(rows: pa.Table) -> NDArray[np.bool_]:
    """Which image rows (n,) are of red cells: those of kind red, and whole files, of no kind."""
    if "kind" not in rows.column_names:
        return np.ones(rows.num_rows, bool)
    return _is(pc.equal(pc.fill_null(rows["kind"].cast(pa.string()), RED), RED))


def is_white_cell(rows: pa.Table) -> NDArray[np.bool_]:
    """Which image rows (n,) are of white cells, as far as their nucleus tells."""
    if "kind" not in rows.column_names:
        return np.zeros(rows.num_rows, bool)
    return _is(pc.equal(rows["kind"].cast(pa.string()), WHITE))


def is_parasitized(rows: pa.Table) -> NDArray[np.bool_]:
    """Which image rows (n,) are red cells that are diagnosed as parasitized."""
    return is_red_cell(rows) & _is(pc.equal(rows["diagnosis"].cast(pa.string()), PARASITIZED))


def failure_reasons(rows: pa.Table) -> list[str | None]:
    """Why each of n image rows failed, without the details; None where it did not."""
    texts = rows["failure"].to_pylist()
    return [None if text is None else text.partition(":")[0] for text in texts]


def numbers_of(rows: pa.Table, column: str) -> Float:
    """A column of numbers (n,), NaN where there is none."""
    return np.asarray(rows[column].cast(pa.float64()).to_numpy(), np.float64)


def _is(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(column.cast(pa.bool_()), False).to_numpy(), bool)
