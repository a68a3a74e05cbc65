"""What the benchmarks share: images, a store with a fitted model, a clock and a way to tell.

``SLIDEWATCH_BENCH_QUICK=1`` makes everything small, to see that it runs; its figures mean nothing.
``SLIDEWATCH_BENCH_JSON`` names a file that every figure is added to, one JSON object per line. Such
files are kept in ``results/``, and `tests.benchmarks.results` makes the tables of them.
"""

import json
import os
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from threadpoolctl import threadpool_limits

from flows.fit import fit
from flows.options.flows import Fit, Train
from flows.settings import Settings
from flows.train import train
from storage.models.classifiers import load_card
from storage.store import Store
from tasks.network.inference import fastest_arithmetic
from tests.benchmarks.results import table_of
from tests.support.images import write_cells
from tests.support.measuring import QUICK, Record, beyond_bound, figure, line
from tests.support.paths import DATA

FIGURES: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()


@pytest.fixture
def record(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Record:
    """Tell a figure: on a line, in the table at the session's end, and in the JSON file."""

    def tell(name: str, unit: str, **measured: Any) -> dict[str, Any]:
        row = {"file": request.node.path.name, "benchmark": request.node.name}
        row |= figure(name, unit, **measured)
        row |= {"quick": QUICK, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
        row |= {"version": version("slidewatch"), "day": date.today().isoformat(), "seed": 0}
        request.config.stash.setdefault(FIGURES, []).append(row)
        with capsys.disabled():
            print(f"\n{line(row)}", end="", flush=True)
        if path := os.environ.get("SLIDEWATCH_BENCH_JSON"):
            with Path(path).open("a") as file:
                file.write(json.dumps(row) + "\n")
        if not QUICK and (problem := beyond_bound(row)):
            pytest.fail(problem)
        return row

    return tell


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print all ratios of the session in one table."""
    if rows := config.stash.get(FIGURES, []):
        title = "ratios: above 1 is better than the peer or within the limit"
        terminalreporter.section(f"{title}{'; quick, so without meaning' if QUICK else ''}")
        terminalreporter.write_line(table_of(rows))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Benchmarks use every core, unlike the tests."""


@pytest.fixture
def as_a_job() -> Iterator[None]:
    """Compute on one thread, as jobs do."""
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real cells where they are, else rendered ones."""
    folder = DATA
    if (folder / "cell_images.zip").exists():
        return str(folder / "cell_images.zip")
    rendered = tmp_path_factory.mktemp("cells")
    write_cells(rendered, 40, 100, seed=0)
    return str(rendered)


@pytest.fixture(scope="session")
def fitted(cells: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store with a model and a detector that were made in a hurry.

    The model has the arithmetic that it has for users of this machine.
    """
    settings = Settings(store=str(tmp_path_factory.mktemp("store")), workers=2)
    train.fn(Train(images=cells, model="hurried", epochs=4, limit=1000), settings)
    # A network that is worse in int8 stays in float32, and this one must not measure that.
    assert load_card(Store(settings.store), "hurried").arithmetic == fastest_arithmetic()
    fit.fn(Fit(images=cells, batch="fitted", limit=1000), settings)
    return settings
