"""What the benchmarks share: images, a store with a fitted model, and a way to print."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.fit import fit
from flows.settings import Settings
from flows.train import train
from tasks.render import write_collection


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Benchmarks use every core, unlike the tests."""


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real cells where they are, else rendered ones."""
    folder = Path(os.environ.get("SLIDEWATCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if (folder / "cell_images.zip").exists():
        return str(folder / "cell_images.zip")
    rendered = tmp_path_factory.mktemp("cells")
    write_collection(rendered, patients=40, cells_per_patient=100, parasitized_fraction=0.5, seed=0)
    return str(rendered)


@pytest.fixture(scope="session")
def fitted(cells: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a store with a model and a detector that were made in a hurry."""
    settings = Settings(store=str(tmp_path_factory.mktemp("store")), workers=2)
    with prefect_test_harness(server_startup_timeout=120):
        train(cells, model="hurried", epochs=1, limit=1000, settings=settings)
        fit(cells, batch="fitted", limit=1000, settings=settings)
        yield settings
