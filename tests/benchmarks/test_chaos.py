"""A night of 20,000 cells, one in a hundred corrupt, with a worker killed every four seconds."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from distributed import Client

from flows import screen as module
from flows.cluster.client import open_client
from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.night import NightOutcome, screen
from storage.batches.manifests import load_batch
from storage.parquet import read_table
from storage.reports.tables import report_path
from storage.store import Store
from tests.support.images import write_cells
from tests.support.measuring import QUICK, Record

CELLS, CORRUPT, EVERY = (2_000, 100, 1.0) if QUICK else (20_000, 100, 4.0)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    write_cells(folder / "few", 20, 50, seed=4, parasitized=0.3)
    cells = [path.read_bytes() for path in sorted((folder / "few").rglob("*.png"))]
    (folder / "all").mkdir()
    rng = np.random.default_rng(4)
    for i in range(CELLS):
        content = cells[i % len(cells)]
        if i % CORRUPT == 0:
            content = content[: int(rng.integers(0, len(content) // 2))]
        (folder / "all" / f"{i:05d}.png").write_bytes(content)
    return folder / "all"


def run(night: Path, batch: str, settings: Settings) -> tuple[NightOutcome, float]:
    started = time.monotonic()
    outcome = screen.fn(Screen(images=str(night), batch=batch), settings)
    assert outcome.failed
    return outcome, time.monotonic() - started


def rows_of(settings: Settings, batch: str) -> pa.Table:
    store = Store(settings.store)
    rows = read_table(store, *report_path(batch, load_batch(store, batch).batch_date))
    return rows.drop_columns(["scored_at", "batch"])


@pytest.mark.benchmark
def test_a_night_whose_workers_are_killed(
    night: Path, fitted: Settings, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A store of its own, for what the first night computed would serve the second.
    other = fitted.model_copy(update={"store": str(tmp_path / "store")})
    shutil.copytree(fitted.store, other.store)
    calm, calm_seconds = run(night, "calm", fitted)
    killed: list[int] = []
    stop = threading.Event()

    def kill(client: Client) -> None:
        rng = np.random.default_rng(0)
        while not stop.wait(EVERY):
            victims = [w["pid"] for w in client.run(_pid_of_worker).values()]
            os.kill(int(rng.choice(victims)), signal.SIGKILL)
            killed.append(1)

    @contextmanager
    def open_and_haunt(settings: Settings) -> Iterator[Client]:
        with open_client(settings) as client:
            threading.Thread(target=kill, args=(client,), daemon=True).start()
            yield client

    monkeypatch.setattr(module, "open_client", open_and_haunt)
    haunted, seconds = run(night, "haunted", other)
    stop.set()
    assert len(killed) > 1
    for outcome in (calm, haunted):
        assert outcome.images == CELLS
        assert sum(outcome.failures.values()) == CELLS // CORRUPT
    rows = rows_of(other, "haunted")
    assert rows.equals(rows_of(fitted, "calm"))
    assert pc.count_distinct(rows["uri"]).as_py() == CELLS
    record("workers killed in a night", "", ours=[len(killed)])
    record("that night, beside an undisturbed one", "s", ours=[seconds], rival=[calm_seconds])


def _pid_of_worker() -> dict[str, int]:
    return {"pid": os.getpid()}
