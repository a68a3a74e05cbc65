"""Stores with a model and a detector, made once for all tests that screen."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.options.flows import Fit, Train
from storage.store import Store

if TYPE_CHECKING:
    from flows.fit import FitOutcome
    from flows.settings import Settings
    from flows.train import TrainOutcome

PATIENTS, CELLS = 16, 12


def copied(settings: "Settings", store: Path, **changed: object) -> "Settings":
    """Copy a store to a folder, and return its settings with these changes."""
    shutil.copytree(settings.store, store)
    return settings.model_copy(update={"store": str(store), **changed})


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled cells in `smears`, and in `night` unlabelled ones with abnormal ones among them."""
    from tasks.synthetic.rendered_cells import write_collection, write_night

    folder = tmp_path_factory.mktemp("images")
    write_collection(
        folder / "smears",
        patients=PATIENTS,
        cells_per_patient=CELLS,
        parasitized_fraction=0.5,
        seed=1,
    )
    write_night(
        folder / "night",
        patients=3,
        cells_per_patient=10,
        parasitized_fraction=0.3,
        planted_per_kind=2,
        seed=2,
        first_patient=101,
    )
    return folder


@pytest.fixture(scope="session")
def trained(
    images: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> "tuple[Settings, TrainOutcome]":
    """Settings of a store with the model ``m``, trained on `smears`; only its copies change."""
    from flows.settings import Settings
    from flows.train import train

    settings = Settings(
        store=str(tmp_path_factory.mktemp("trained") / "store"),
        cluster="scheduler",
        scheduler=scheduler,
        shard_rows=32,
    )
    outcome = train(
        Train(images=str(images / "smears"), model="m", epochs=1, side=32, arithmetic="float32"),
        settings,
    )
    return settings, outcome


@pytest.fixture(scope="session")
def fitted(
    trained: "tuple[Settings, TrainOutcome]", images: Path, tmp_path_factory: pytest.TempPathFactory
) -> "tuple[Settings, FitOutcome]":
    """Settings of a store with the model ``m`` and a detector; only its copies change."""
    from flows.fit import fit

    settings = copied(trained[0], tmp_path_factory.mktemp("fitted") / "store")
    return settings, fit(Fit(images=str(images / "smears"), batch="first"), settings)


@pytest.fixture
def ready(fitted: "tuple[Settings, FitOutcome]", tmp_path: Path) -> "Settings":
    """Settings of a store of one's own, with a model and a detector in it."""
    return copied(fitted[0], tmp_path / "store")


@pytest.fixture(scope="session")
def tiny_fitted(
    scheduler: str, _store_with_model: Store, tmp_path_factory: pytest.TempPathFactory
) -> "Settings":
    """Settings of a store with the untrained model ``tiny`` and a detector; only copies change."""
    from flows.fit import fit
    from flows.settings import Settings
    from tasks.synthetic.rendered_cells import write_collection

    folder = tmp_path_factory.mktemp("tiny")
    write_collection(
        folder / "cells", patients=10, cells_per_patient=8, parasitized_fraction=0.5, seed=3
    )
    shutil.copytree(_store_with_model.root, folder / "store")
    settings = Settings(
        store=str(folder / "store"),
        cluster="scheduler",
        scheduler=scheduler,
        shard_rows=16,
        alpha=0.2,
    )
    fit(Fit(images=str(folder / "cells"), batch="first"), settings)
    return settings


@pytest.fixture
def tiny_ready(tiny_fitted: "Settings", tmp_path: Path) -> "Settings":
    """Settings of a store of one's own, with the untrained model and a detector in it."""
    return copied(tiny_fitted, tmp_path / "store")
