"""Read the features and rows of a batch into memory, for analyses elsewhere."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.batches.features import TAPS, FeatureBlock
from storage.batches.known_features import verified_block
from storage.batches.manifests import Batch, Shard, load_batch, read_manifest
from storage.models.classifiers import model_of
from storage.records import Arrays
from storage.reports.tables import published_batch, report_path, rows_by_shard
from storage.store import Store, StoreError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class BatchFeatures:
    """Features of n consecutive rows of a batch, in the order of its manifest and its report.

    ``values`` float32 (n, D) has the taps side by side, of widths ``taps``; failed rows have NaN.
    ``rows`` maps columns to arrays (n, ...) (`FeatureBlock`). ``table`` has the rows of the report
    on images, or of the manifest without a report.
    """

    values: NDArray[np.float32] = field(repr=False)
    taps: dict[str, int]
    rows: Arrays = field(repr=False)
    table: pa.Table = field(repr=False)

    def annotated(self) -> tuple[NDArray[np.float32], "pd.DataFrame", "pd.DataFrame"]:
        """Return X (n, D), obs (n rows) and var (D rows) of an ``anndata.AnnData``.

        ``obs`` is ``table`` by ``uri`` in types of h5ad: texts are categories, times texts, lists
        left out.
        """
        import pandas as pd

        columns = {
            name: values.cast(pa.string()) if pa.types.is_temporal(values.type) else values
            for name, values in zip(self.table.column_names, self.table.columns, strict=True)
            if not pa.types.is_nested(values.type)
        }
        kinds = {pa.bool_(): pd.BooleanDtype()}  # a boolean without a value is no object
        obs = pa.table(columns).to_pandas(strings_to_categorical=True, types_mapper=kinds.get)
        obs.index = pd.Index(obs.pop("uri").astype(str), name="uri")
        names = [f"{tap}/{place}" for tap, width in self.taps.items() for place in range(width)]
        var = pd.DataFrame({"tap": np.repeat(list(self.taps), list(self.taps.values()))}, names)
        return self.values, obs, var


def read_features(
    store: Store, name: str, model: str | None = None, rows: slice = slice(None)
) -> BatchFeatures:
    """Read features of some rows of a batch, by a model or the only one, and verify them."""
    batch = load_batch(store, name)
    if store.exists(*report_path(batch.name, batch.batch_date)):
        batch = published_batch(store, name)
        tables = rows_by_shard(store, batch)
    else:
        tables = ((shard, read_manifest(store, batch, shard)) for shard in batch.shards())
    start, stop, step = rows.indices(batch.rows)
    if step != 1 or start >= stop:
        raise ValueError(f"{rows} of {batch.rows} rows is no range of consecutive rows")
    under = _kept_under(store, batch, model)
    values, columns, parts = None, list[Arrays](), list[pa.Table]()
    for shard, table in tables:
        if shard.stop <= start:
            continue
        if shard.start >= stop:
            break
        inside = np.arange(max(start, shard.start), min(stop, shard.stop))
        block = _verified(store, under, batch, shard).take(inside - shard.start)
        stored = block.stored()
        if values is None:
            values = np.empty((stop - start, stored[TAPS].shape[1]), np.float32)
        values[inside - start] = stored.pop(TAPS)
        columns.append(stored)
        parts.append(table.take(inside - shard.start))
    assert values is not None
    return BatchFeatures(
        values,
        {tap: block.taps[tap].shape[1] for tap in sorted(block.taps)},
        {column: np.concatenate([part[column] for part in columns]) for column in stored},
        pa.concat_tables(parts).unify_dictionaries(),
    )


def _kept_under(store: Store, batch: Batch, model: str | None) -> str:
    """Return the name under which features of a batch are kept: of a model, or its tuning."""
    names = store.folders("features", having=f"{batch.key}.zarr/zarr.json")
    found = [name for name in names if model in (None, name)]
    found = found or [name for name in names if model_of(name) == model]
    if len(found) == 1:
        return found[0]
    if found:
        raise StoreError(
            f"batch {batch.name} has features of several models: give one of {', '.join(found)}"
        )
    of_model = f" of model {model}" if model else ""
    raise StoreError(
        f"batch {batch.name} has no features{of_model} in {store.url}: they were never extracted, "
        "or prune has removed them"
    )


def _verified(store: Store, model: str, batch: Batch, shard: Shard) -> FeatureBlock:
    verified = verified_block(store, model, batch, shard)
    if verified is None:
        raise StoreError(
            f"the features of rows {shard.start} to {shard.stop} of batch {batch.name} are not "
            "complete, or damaged: run the command that extracts them again"
        )
    return verified[0]
