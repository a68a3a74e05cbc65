"""A batch as an AnnData file."""

import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow as pa
import pytest

from flows.commands.exports.export import export
from flows.settings import Settings, UsageError
from storage.batches.features import read_block, write_block
from storage.batches.manifests import Batch
from storage.parquet import read_table
from storage.reports.tables import report_path
from storage.store import Store, StoreError
from tests.support.reading import add_features, night
from tests.support.reports import publish_report


@pytest.fixture
def batch(store_with_model: Store, tmp_path: Path) -> Batch:
    made = night(store_with_model, tmp_path / "cells")
    add_features(store_with_model, made)
    return made


def exported(store: Store, path: Path) -> Any:
    return export("night", str(path), Settings(store=store.url))


def test_the_file_holds_features_logits_and_the_report(
    store_with_model: Store, batch: Batch, tmp_path: Path
) -> None:
    outcome = exported(store_with_model, tmp_path / "night.h5ad")
    assert (outcome.cells, outcome.failed_images, outcome.features) == (24, 0, 80)
    block = read_block(store_with_model, "tiny", batch.key, 0, batch.rows)
    report = read_table(store_with_model, *report_path(batch.name, batch.batch_date))
    read = anndata.read_h5ad(tmp_path / "night.h5ad")
    wanted = np.concatenate([block.taps["layer1"], block.taps["layer2"]], axis=1)
    np.testing.assert_array_equal(read.X, wanted)
    np.testing.assert_array_equal(read.obsm["logits"], block.logits)
    assert read.obs_names[:2].tolist() == ["night:0", "night:1"]
    assert read.var_names[:2].tolist() == ["layer1:0", "layer1:1"]
    assert read.var["tap"].cat.categories.tolist() == ["layer1", "layer2"]
    obs = read.obs
    assert obs.columns.tolist() == report.column_names
    for name in ("image_id", "diagnosis", "p_value", "abnormal", "width"):
        assert obs[name].tolist() == report[name].to_pylist()
    # A missing value is a mask, no category, NaN, or an empty text.
    for name in ("touches_border", "label", "q_value"):
        assert obs[name].isna().all()
    assert set(obs["acquired_at"]) == {""}
    assert read.uns["model"] == "tiny"
    assert obs["verdict"].value_counts()["review"] == 9
    read[obs["abnormal"]].write_h5ad(tmp_path / "again.h5ad")


def test_failed_images_are_left_out(store_with_model: Store, batch: Batch, tmp_path: Path) -> None:
    path = report_path(batch.name, batch.batch_date)
    report = read_table(store_with_model, *path)
    status = ["failed" if i in range(3, 17) else "scored" for i in range(24)]
    place = report.schema.get_field_index("status")
    of_status = pa.array(status).cast(report.schema.field(place).type)
    publish_report(
        store_with_model, path, report.schema,
        [report.set_column(place, report.schema.field(place), of_status)],
    )  # fmt: skip
    outcome = exported(store_with_model, tmp_path / "night.h5ad")
    assert (outcome.cells, outcome.failed_images) == (10, 14)
    read = anndata.read_h5ad(tmp_path / "night.h5ad")
    block = read_block(store_with_model, "tiny", batch.key, 0, batch.rows)
    kept = [0, 1, 2, *range(17, 24)]
    assert read.obs_names.tolist() == [f"night:{row}" for row in kept]
    np.testing.assert_array_equal(read.X[:, :8], block.taps["layer1"][kept, :8])


def test_a_file_that_is_there_stays_as_it_is(
    store_with_model: Store, batch: Batch, tmp_path: Path
) -> None:
    path = tmp_path / "night.h5ad"
    path.write_bytes(b"somebody's work")
    with pytest.raises(UsageError, match="there already"):
        exported(store_with_model, path)
    with pytest.raises(UsageError, match=r"no \.h5ad file"):
        exported(store_with_model, tmp_path / "night.csv")
    assert path.read_bytes() == b"somebody's work"


def test_features_of_other_images_are_not_exported(
    store_with_model: Store, batch: Batch, tmp_path: Path
) -> None:
    block = read_block(store_with_model, "tiny", batch.key, 8, 16)
    block.image_id[3] = 7
    write_block(store_with_model, "tiny", batch.key, 8, block)
    with pytest.raises(StoreError, match="of other images than its report"):
        exported(store_with_model, tmp_path / "night.h5ad")
    assert list(tmp_path.glob("*h5ad")) == []


def test_without_the_extra_one_line_says_what_to_install(
    store_with_model: Store, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)
    monkeypatch.delitem(sys.modules, "flows.commands.exports.h5ad", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'slidewatch\[anndata\]'"):
        exported(store_with_model, tmp_path / "night.h5ad")
