"""Features and rows of a batch, read together."""

import re
from pathlib import Path

import anndata
import numpy as np
import pytest

from flows.smears.api import open_store
from storage.batches.features import FAILED, read_block
from storage.batches.manifests import read_manifest
from storage.smears.batch_features import BatchFeatures, read_features
from storage.store import Store, StoreError
from tests.support.shards import Night, start, start_spoilt


@pytest.fixture
def done(store_with_model: Store, cells: Path) -> Night:
    night = start(store_with_model, cells)
    night.run()
    return night


def read(night: Night, *range_: int | None) -> BatchFeatures:
    return open_store(night.store.url).features("night", rows=slice(*range_))


@pytest.mark.parametrize("range_", [(None,), (3, 7), (5, 21), (-4, None), (20, 99)])
def test_any_rows_are_those_of_the_store_and_of_the_manifest(
    done: Night, range_: tuple[int, ...]
) -> None:
    found, rows = read(done, *range_), np.arange(24)[slice(*range_)]
    block = read_block(done.store, "tiny", "night", 0, 24).take(rows)
    assert found.taps == done.card.tap_widths
    first = found.taps["layer1"]
    np.testing.assert_array_equal(found.values[:, :first], block.taps["layer1"])
    np.testing.assert_array_equal(found.values[:, first:], block.taps["layer2"])
    assert {name: a.tobytes() for name, a in found.rows.items()} == {
        name: a.tobytes() for name, a in block.columns().items()
    }
    manifest = read_manifest(done.store, done.batch).take(rows)
    assert found.table["uri"].to_pylist() == manifest["uri"].to_pylist()


def test_failed_rows_become_ann_data_like_others(
    store_with_model: Store, cells: Path, tmp_path: Path
) -> None:
    night = start_spoilt(store_with_model, cells, tmp_path)
    night.run()
    features = read(night, None)
    made = anndata.AnnData(*features.annotated())
    made.obs["status"] = features.rows["status"]
    made.write_h5ad(tmp_path / "night.h5ad")
    kept = anndata.read_h5ad(tmp_path / "night.h5ad")
    assert kept.obs_names.tolist() == features.table["uri"].to_pylist()
    assert kept.obs["patient_id"].tolist() == features.table["patient_id"].to_pylist()
    widths = kept.var["tap"].value_counts().to_dict()
    assert widths == features.taps == night.card.tap_widths
    failed = kept.obs["status"].to_numpy() == FAILED
    np.testing.assert_array_equal(failed, np.arange(24) // 10 == 1)
    assert np.isnan(kept.X[failed]).all()
    assert np.isfinite(kept.X[~failed]).all()


@pytest.mark.parametrize("range_", [(4, 4), (9, 3), (0, 9, 2), (24, 30)])
def test_rows_that_are_no_range_are_refused(done: Night, range_: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="of 24 rows is no range of consecutive rows"):
        read(done, *range_)


def test_rows_that_are_not_extracted_or_damaged_are_named_and_others_read(done: Night) -> None:
    done.store.remove("batches", "night", "ledger", "tiny", "000002.json")
    done.store.remove("features", "tiny", "night.zarr", "rows", "size", "c.0.0")
    assert len(read(done, 10, 20).values) == 10
    for range_, named in (((0, 5), "0 to 10"), ((18, 22), "20 to 24")):
        with pytest.raises(StoreError, match=f"features of rows {named} of batch night are not"):
            read(done, *range_)


def test_features_of_several_models_have_to_be_named(done: Night) -> None:
    store = done.store
    for name in ("other", "tiny+0123"):
        store.fs.copy(store.path("features/tiny"), store.path("features", name), recursive=True)
    with pytest.raises(StoreError, match=re.escape("one of other, tiny, tiny+0123")):
        read_features(store, "night")
    assert len(read_features(store, "night", "tiny").values) == 24
    with pytest.raises(StoreError, match="batch night has no features of model none in"):
        read_features(store, "night", "none")
