import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from distributed import LocalCluster
from hypothesis import settings
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from werkzeug.serving import make_server

from storage.arrays import arrays_to_bytes
from storage.models.classifiers import ModelCard, save_model
from storage.store import Store, digest_of
from tasks.network.backbones import build, network_spec
from tasks.network.classifier import NetworkSpec, tap_widths
from tasks.synthetic import cells as render
from tasks.synthetic.slides import RenderedSlide, render_slide

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


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URL of an empty bucket on an S3 server of one's own, reached over HTTP.

    Its address and keys are in the environment, as an operator would set them, so that worker
    processes find it too. moto answers one request at a time: it looks for an object and then
    writes it, which S3 does in one step.
    """
    moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with turn:
            return moto(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            # What this machine's owner has set up for S3 is not for tests.
            "AWS_CONFIG_FILE": "none",
            "AWS_SHARED_CREDENTIALS_FILE": "none",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patched.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patched.delenv(name, raising=False)
        fsspec.filesystem("s3").mkdir("slidewatch")
        yield "s3://slidewatch"
    server.shutdown()


@pytest.fixture(params=["local", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store: on a disk, on S3, and on a filesystem that can do no more than any other."""
    if request.param == "local":
        yield Store(str(tmp_path / "store"))
        return
    if request.param == "s3":
        yield Store(f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}/store")
        return
    fs = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    yield Store(f"memory:/{root}")
    if fs.exists(root):
        fs.rm(root, recursive=True)


@pytest.fixture(params=["local", "s3"])
def shared_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store that several processes may use at once."""
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    return Store(f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}/store")


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """The URL of a Prefect server that all tests share, for one takes seconds to start."""
    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def scheduler(prefect_api: str) -> Iterator[str]:
    """A Dask scheduler with two workers, as an operator would have one running."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients' cells, half of them Parasitized, in a folder for each class."""
    folder = tmp_path_factory.mktemp("cells")
    render.write_collection(
        folder, patients=4, cells_per_patient=6, parasitized_fraction=0.5, seed=0
    )
    return folder


@pytest.fixture(scope="session")
def rendered_slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RenderedSlide]:
    """A slide of 4096 x 3072 pixels at three resolutions: four fields, two too thick, and glass."""
    path = tmp_path_factory.mktemp("slides") / "smear.tif"
    return path, render_slide(path, width=4096, height=3072, fields=4, thick=2, seed=0)


@pytest.fixture(scope="session")
def slide(rendered_slide: tuple[Path, RenderedSlide]) -> Path:
    """The file of that slide."""
    return rendered_slide[0]


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


@pytest.fixture
def any_store_with_model(any_store: Store, _store_with_model: Store) -> Store:
    """`any_store` with the untrained model ``tiny`` in it."""
    for name in _store_with_model.names("models", "tiny"):
        content = _store_with_model.read_bytes("models", "tiny", name)
        any_store.write_bytes(content, "models", "tiny", name)
    return any_store
