import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import settings

from storage.arrays import arrays_to_bytes
from storage.models import ModelCard, save_model
from storage.store import Store, digest_of
from tasks import render
from tasks.network import NetworkSpec, build, network_spec, tap_widths

# Machines differ and are shared: how long an example takes decides nothing.
settings.register_profile("slidewatch", deadline=None)
settings.load_profile("slidewatch")

CLASSES = ("Parasitized", "Uninfected")
HELD_OUT = "C104P4"
WHEN = datetime(2026, 1, 3, 8, tzinfo=UTC)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(params=["local", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store on the local filesystem, and one on a filesystem that is not local."""
    if request.param == "local":
        yield Store(str(tmp_path / "store"))
        return
    fs = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    yield Store(f"memory:/{root}")
    if fs.exists(root):
        fs.rm(root, recursive=True)


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients' cells, half of them Parasitized, in a folder for each class."""
    folder = tmp_path_factory.mktemp("cells")
    render.write_collection(
        folder, patients=4, cells_per_patient=6, parasitized_fraction=0.5, seed=0
    )
    return folder


@pytest.fixture(scope="session")
def spec() -> NetworkSpec:
    """A network of half a million weights."""
    return network_spec(
        "timm:test_resnet",
        CLASSES,
        32,
        taps=("layer1", "layer2"),
        frozen=("conv1", "bn1", "layer1"),
    )


@pytest.fixture(scope="session")
def _store_with_model(tmp_path_factory: pytest.TempPathFactory, spec: NetworkSpec) -> Store:
    torch.manual_seed(0)
    classifier = build(spec)
    torch.nn.init.normal_(classifier.backbone.get_submodule("fc").weight)
    weights = arrays_to_bytes({k: v.numpy() for k, v in classifier.state_dict().items()})
    card = ModelCard(
        name="tiny",
        created_at=WHEN,
        digest=digest_of(weights),
        network=spec.as_dict(),
        preprocessing="RGB",
        tap_widths=tap_widths(classifier),
        temperature=1.5,
        split_by="patient",
        split={"train": ["C101P1", "C102P2"], "validation": [], "test": [HELD_OUT]},
        training={},
        metrics={},
        versions={},
    )
    made = Store(str(tmp_path_factory.mktemp("store-with-model")))
    save_model(made, card, weights)
    return made


@pytest.fixture
def store_with_model(tmp_path: Path, _store_with_model: Store) -> Store:
    """A store of one's own that holds the untrained model ``tiny``."""
    shutil.copytree(_store_with_model.root, tmp_path / "store")
    return Store(str(tmp_path / "store"))
