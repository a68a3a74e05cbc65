"""Measure the cost of syncing a shard's chunks before the ledger names it.

The rival does all the same but for these syncs, in the same rounds. The network is the tests' tiny
one, so any real one makes the difference smaller.
"""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from flows.jobs.shard import run_shard
from flows.jobs.worker import settle_worker
from storage.batches import features
from storage.models.classifiers import load_card
from storage.store import Store
from tasks.images.listing import list_images
from tests.support.images import write_cells
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.models import CLASSES
from tests.support.shards import freeze_night

PATIENTS, ROUNDS, SHARD_ROWS = (2, 2, 64) if QUICK else (8, 5, 256)
LIMIT = 0.9  # of the rival's speed


@pytest.mark.benchmark
def test_cost_of_syncing_the_chunks_of_a_shard(
    store_with_model: Store, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, numbers, synced = store_with_model, count(), list[int]()
    cells = tmp_path / "cells"
    write_cells(cells, PATIENTS, 128, seed=0)
    manifest = list_images(str(cells), classes=CLASSES)
    card, honest, fsync = load_card(store, "tiny"), features.sync_files, os.fsync
    settle_worker()

    def shards(sync: Callable[..., None]) -> float:
        monkeypatch.setattr(features, "sync_files", sync)
        jobs = freeze_night(store, manifest, f"b{next(numbers)}", card, SHARD_ROWS).jobs()
        seconds = in_turn(1, {"": lambda: [run_shard(job) for job in jobs]})[""][0]
        return seconds / len(jobs)

    def counted(number: int) -> None:
        synced.append(number)
        fsync(number)

    shards(honest)  # loads the model
    with monkeypatch.context() as watched:
        watched.setattr(os, "fsync", counted)
        shards(honest)
    of_all = len(synced) / -(-manifest.num_rows // SHARD_ROWS)
    runs = {"synced": lambda: shards(honest), "not": lambda: shards(lambda *_: None)}
    taken = in_turn(ROUNDS, runs)
    record("syncs of a shard, its ledger's too", "", ours=[of_all])
    times = {"ours": taken["synced"], "rival": taken["not"]}
    found = record(f"a shard of {SHARD_ROWS} cells, synced", "s", **times, bound=0.5)
    speed = found["ratio"]["median"]
    record("of the speed without", "", ours=[speed], limit=LIMIT, higher_is_better=True)
