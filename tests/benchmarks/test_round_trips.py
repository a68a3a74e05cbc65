"""Eight workers whose store is 30 ms away.

Two cores cannot run eight workers. Here they are threads, and what stands in for reading and for
the network waits as long as a core computes (500 images a second), and leaves the cores to what is
measured: everything that a shard does beside.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.jobs import shard as jobs
from flows.jobs.shard import run_shard
from storage.models.classifiers import load_card
from storage.store import Store
from tasks.images.listing import list_images
from tasks.images.regions import ImageRef
from tasks.network.extraction import Features, Loaded
from tests.support.far_s3 import far_s3
from tests.support.images import write_cells
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.models import CLASSES
from tests.support.shards import freeze_night

pytestmark = pytest.mark.benchmark

AWAY = 0.03  # seconds
SPEED = 500.0  # images a second of a core
WIDTHS = {"layer1": 112, "layer2": 320}  # as wide as those of the default network
WORKERS, SHARDS_EACH, SHARD_ROWS, ROUNDS = (8, 2, 128, 1) if QUICK else (8, 2, 512, 3)
numbers = count()


@pytest.fixture(scope="module")
def far() -> Iterator[str]:
    with far_s3(AWAY) as root:
        yield root


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    write_cells(folder, 4, 6, seed=0)
    return folder


def stand_in(_: Any, refs: list[ImageRef], tap_widths: dict[str, int], **__: Any) -> Features:
    """Wait as long as a core computes."""
    time.sleep(len(refs) / SPEED)
    rng = np.random.default_rng(0)
    taps = {t: rng.normal(size=(len(refs), d)).astype(np.float32) for t, d in tap_widths.items()}
    logits = rng.normal(size=(len(refs), 2)).astype(np.float32)
    images = [Loaded(rng.bytes(32), (64, 64), (1.0, 2.0, 3.0)) for _ in refs]
    return Features(taps, logits, images, np.zeros(len(refs), bool))


def test_eight_workers_far_from_their_store(
    far: str, store_with_model: Store, cells: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "extract", stand_in)
    monkeypatch.setattr(jobs, "network_of", lambda *_: None)
    there = Store(f"{far}/{next(numbers)}")
    rows = WORKERS * SHARDS_EACH * SHARD_ROWS
    some = list_images(str(cells), classes=CLASSES)
    manifest = some.take(np.arange(rows) % some.num_rows)
    card = load_card(store_with_model, "tiny").model_copy(update={"tap_widths": WIDTHS})

    def screened(store: Store) -> float:
        work = freeze_night(store, manifest, f"b{next(numbers)}", card, SHARD_ROWS).jobs()
        run_shard(work[0])  # opens the arrays, once a worker
        with ThreadPoolExecutor(WORKERS) as pool:
            seconds = in_turn(1, {"": lambda: list(pool.map(run_shard, work))})[""][0]
        return rows / seconds

    screened(there)
    speeds = in_turn(
        ROUNDS, {"far": lambda: screened(there), "near": lambda: screened(store_with_model)}
    )
    found = record(
        f"{WORKERS} workers, store 30 ms away, rival a local one", "images/s",
        ours=speeds["far"], rival=speeds["near"], bound=0.5, higher_is_better=True,
    )  # fmt: skip
    share = found["ratio"]["median"]
    record("of a local store's speed", "", ours=[share], limit=0.8, higher_is_better=True)
