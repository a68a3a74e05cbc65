"""What the benchmarks share: images, a store with a fitted model, a clock and a way to tell.

``SLIDEWATCH_BENCH_QUICK=1`` makes everything small, to see that it runs; its figures mean nothing.
``SLIDEWATCH_BENCH_JSON`` names a file that every figure is added to, one JSON object a line.
"""

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.fit import fit
from flows.settings import Settings
from flows.train import train
from tasks.synthetic.cells import write_collection
from tests.support.measuring import QUICK, Record
from tests.support.paths import DATA


@pytest.fixture
def record(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Record:
    """Tell a figure: a line of the table, and one of the JSON file.

    ``ours`` and ``rival`` are measured in the same rounds, so the ratio, by how much ours is
    better, is taken round by round.
    """

    def tell(
        name: str,
        unit: str,
        *,
        ours: Sequence[float],
        rival: Sequence[float] | None = None,
        limit: float | None = None,
        higher_is_better: bool = False,
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"benchmark": request.node.name, "name": name, "unit": unit}
        row |= {"ours": _spread(ours), "higher_is_better": higher_is_better}
        text = f"{name:<58} {_text(row['ours'])} {unit}"
        if rival is not None:
            pairs = zip(ours, rival, strict=True)
            row["rival"] = _spread(rival)
            row["ratio"] = _spread([a / b if higher_is_better else b / a for a, b in pairs])
            text += f"; rival {_text(row['rival'])}; ratio {_text(row['ratio'])}"
        if limit is not None:
            value = row["ours"]["median"]
            row["limit"] = limit
            row["met"] = bool(value >= limit if higher_is_better else value <= limit)
            text += f"; limit {limit:g}: {'met' if row['met'] else 'missed'}"
        row |= {"quick": QUICK, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
        with capsys.disabled():
            print(f"\n{text}", end="", flush=True)
        if path := os.environ.get("SLIDEWATCH_BENCH_JSON"):
            with Path(path).open("a") as file:
                file.write(json.dumps(row) + "\n")
        return row

    return tell


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _text(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.4g} ({spread['min']:.4g}-{spread['max']:.4g})"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Benchmarks use every core, unlike the tests."""


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real cells where they are, else rendered ones."""
    folder = DATA
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
