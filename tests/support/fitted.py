"""Stores with a model and a detector, made once for all tests that screen."""

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.options.flows import Fit, Train
from storage.store import Store
from tests.support.images import write_cells, write_mixed_night
from tests.support.kept import kept

if TYPE_CHECKING:
    from flows.fit import FitOutcome
    from flows.settings import Settings
    from flows.train import TrainOutcome

PATIENTS, CELLS = 16, 12
# Tests of nights take half as long with it as with the usual one.
SMALL = {"network": "timm:test_resnet", "taps": ["layer1", "layer2"], "weights": "scratch"}


def copied(settings: "Settings", store: Path, **changed: object) -> "Settings":
    """Copy a store to a folder, and return its settings with these changes."""
    shutil.copytree(settings.store, store)
    return settings.model_copy(update={"store": str(store), **changed})


@pytest.fixture(scope="session")
def images() -> Path:
    """Labelled cells in `smears`, and in `night` unlabelled ones with abnormal ones among them."""
    return kept("images", _render)


def _render(folder: Path) -> None:
    write_cells(folder / "smears", PATIENTS, CELLS, seed=1)
    write_mixed_night(folder / "night", 3, 10, 2, parasitized=0.3)


@pytest.fixture(scope="session")
def trained(images: Path, scheduler: str) -> "tuple[Settings, TrainOutcome]":
    """Settings of a store with the model ``m``, trained on `smears`; only its copies change."""
    from flows.train import TrainOutcome

    folder = kept("trained", partial(_train, images / "smears", **SMALL))
    made = TrainOutcome.model_validate_json((folder / "outcome.json").read_text())
    return _on(scheduler, folder), made


def _train(smears: Path, folder: Path, **network: Any) -> None:
    from flows.settings import Settings
    from flows.train import train

    settings = Settings(store=str(folder / "store"))
    usual: dict[str, Any] = {"model": "m", "epochs": 1, "side": 32, "arithmetic": "float32"}
    outcome = train.fn(Train(images=str(smears), **usual | network), settings)
    (folder / "outcome.json").write_text(outcome.model_dump_json())


def _on(scheduler: str, folder: Path, **changed: object) -> "Settings":
    from flows.settings import Settings

    store = str(folder / "store")
    usual = Settings(store=store, cluster="scheduler", scheduler=scheduler, shard_rows=32)
    return usual.model_copy(update=changed)


@pytest.fixture(scope="session")
def fitted(trained: "tuple[Settings, TrainOutcome]", images: Path) -> "tuple[Settings, FitOutcome]":
    """Settings of a store with the model ``m`` and a detector; only its copies change."""
    from flows.fit import FitOutcome, fit

    def make(folder: Path) -> None:
        settings = copied(trained[0], folder / "store")
        outcome = fit.fn(Fit(images=str(images / "smears"), batch="first"), settings)
        (folder / "outcome.json").write_text(outcome.model_dump_json())

    folder = kept("fitted", make)
    made = FitOutcome.model_validate_json((folder / "outcome.json").read_text())
    return trained[0].model_copy(update={"store": str(folder / "store")}), made


@pytest.fixture(scope="session")
def by_slides(scheduler: str) -> "Settings":
    """Settings of a store whose detector knows slides, from 12 patients of 40 cells."""
    from flows.fit import fit

    def make(folder: Path) -> None:
        smears = folder / "smears"
        write_cells(smears, 12, 40, seed=1, parasitized=0.4)
        _train(smears, folder)
        fit.fn(Fit(images=str(smears), batch="smears"), _on(scheduler, folder, shard_rows=128))

    return _on(scheduler, kept("by-slides", make), shard_rows=128)


@pytest.fixture
def ready(fitted: "tuple[Settings, FitOutcome]", tmp_path: Path) -> "Settings":
    """Settings of a store of one's own, with a model and a detector in it."""
    return copied(fitted[0], tmp_path / "store")


@pytest.fixture(scope="session")
def tiny_fitted(scheduler: str, _store_with_model: Store) -> "Settings":
    """Settings of a store with the untrained model ``tiny`` and a detector; only copies change."""
    from flows.fit import fit

    options = {"shard_rows": 16, "alpha": 0.2}

    def make(folder: Path) -> None:
        write_cells(folder / "cells", 10, 8, seed=3)
        shutil.copytree(_store_with_model.root, folder / "store")
        fit.fn(Fit(images=str(folder / "cells"), batch="first"), _on(scheduler, folder, **options))

    return _on(scheduler, kept("tiny-fitted", make), **options)


@pytest.fixture
def tiny_ready(tiny_fitted: "Settings", tmp_path: Path) -> "Settings":
    """Settings of a store of one's own, with the untrained model and a detector in it."""
    return copied(tiny_fitted, tmp_path / "store")
