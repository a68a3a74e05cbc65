"""Write cells as an AnnData file (.h5ad): features part by part, all else as a whole."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
from dask.delayed import delayed
from numpy.typing import NDArray

Features = NDArray[np.float32]


def write_h5ad(
    path: Path,
    parts: Sequence[tuple[int, Callable[[], Features]]],
    *,
    taps: Mapping[str, str],
    names: Sequence[str],
    rows: pa.Table,
    logits: Features,
    about: Mapping[str, str],
) -> None:
    """Write n cells of d features; only one part of the features is in memory at any time.

    Args:
        path: of the file.
        parts: how many cells each part has, and what reads their features (cells, d).
        taps: the tap of each of the d features by its name, kept as ``var["tap"]``.
        names: of the n cells.
        rows: of the report, kept as ``obs``: a missing number is NaN, or has a mask if numbers are
            whole; a missing text is empty; a missing one of a few texts has no category.
        logits: of the n cells (n, C), kept as ``obsm["logits"]``.
        about: texts for ``uns``.
    """
    x = da.concatenate(
        [
            da.from_delayed(delayed(read, pure=False)(), (cells, len(taps)), np.float32)
            for cells, read in parts
        ]
    )
    obs = pd.DataFrame({_key(name): _column(rows[name]) for name in rows.column_names})
    var = pd.DataFrame({"tap": pd.Categorical(list(taps.values()))}, list(taps))
    made = anndata.AnnData(x, obs.set_axis(list(names)), var, dict(about), obsm={"logits": logits})
    with dask.config.set(scheduler="synchronous"):
        made.write_h5ad(path)


def _key(name: str) -> str:
    return name.replace("/", "|")  # which would be a path in HDF5


def _column(values: pa.ChunkedArray) -> Any:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return values.unify_dictionaries().to_pandas()
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        # Without missing ones no mask: scanpy draws no nullable column.
        return values.to_pandas(types_mapper=_nullable if values.null_count else None)
    if pa.types.is_floating(kind):
        return values.to_pandas()
    return values.cast(pa.string()).fill_null("").to_pandas()


def _nullable(kind: pa.DataType) -> Any:
    return pd.array([], "boolean" if pa.types.is_boolean(kind) else str(kind).capitalize()).dtype
