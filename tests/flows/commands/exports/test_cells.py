"""A batch as an AnnData file."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.commands.exports.cells import export
from flows.settings import Settings, UsageError
from storage.batches.features import read_block, write_block
from storage.batches.manifests import Batch
from storage.parquet import read_table
from storage.reports.tables import report_path
from storage.store import Store, StoreError
from tests.support.reading import add_features, night

h5py = pytest.importorskip("h5py", reason="h5py is not installed")


@pytest.fixture
def batch(store_with_model: Store, tmp_path: Path) -> Batch:
    made = night(store_with_model, tmp_path / "cells")
    add_features(store_with_model, made)
    return made


def exported(store: Store, path: Path) -> Any:
    return export("night", str(path), Settings(store=store.url))


def texts(dataset: Any) -> list[str]:
    return [str(each) for each in dataset.asstr()[:]]


def test_the_file_holds_features_logits_and_the_report(
    store_with_model: Store, batch: Batch, tmp_path: Path
) -> None:
    outcome = exported(store_with_model, tmp_path / "night.h5ad")
    assert (outcome.cells, outcome.failed_images) == (24, 0)
    block = read_block(store_with_model, "tiny", batch.key, 0, batch.rows)
    report = read_table(store_with_model, *report_path(batch.name, batch.batch_date))
    with h5py.File(tmp_path / "night.h5ad") as file:
        wanted = np.concatenate([block.taps["layer1"], block.taps["layer2"]], axis=1)
        np.testing.assert_array_equal(file["X"][:], wanted)
        np.testing.assert_array_equal(file["obsm/logits"][:], block.logits)
        assert texts(file["obs/_index"])[:2] == ["night:0", "night:1"]
        assert texts(file["var/_index"])[:2] == ["layer1:0", "layer1:1"]
        obs = file["obs"]
        assert list(obs.attrs["column-order"]) == report.column_names
        assert texts(obs["image_id"]) == report["image_id"].to_pylist()
        names = np.array(texts(obs["diagnosis/categories"]))
        assert names[obs["diagnosis/codes"][:]].tolist() == report["diagnosis"].to_pylist()
        np.testing.assert_array_equal(obs["p_value"][:], report["p_value"].to_numpy())
        assert obs["abnormal"][:].tolist() == report["abnormal"].to_pylist()
        # Where something is missing there is a mask, a code of -1, NaN, or an empty text.
        assert obs["touches_border/mask"][:].all()
        assert obs["label/codes"][:].tolist() == [-1] * 24
        assert np.isnan(obs["q_value"][:]).all()
        assert set(texts(obs["acquired_at"])) == {""}
        assert file["uns/model"].asstr()[()] == "tiny"


def test_anndata_reads_the_file(store_with_model: Store, batch: Batch, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    exported(store_with_model, tmp_path / "night.h5ad")
    read = anndata.read_h5ad(tmp_path / "night.h5ad")
    assert read.n_obs == 24
    assert read.obsm["logits"].shape == (24, 2)
    assert read.obs["verdict"].value_counts()["review"] == 9
    assert read.var["tap"].cat.categories.tolist() == ["layer1", "layer2"]
    read[read.obs["abnormal"]].write_h5ad(tmp_path / "again.h5ad")


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
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'slidewatch\[anndata\]'"):
        exported(store_with_model, tmp_path / "night.h5ad")
