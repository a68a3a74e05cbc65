"""Peak memory of workers and coordinator against the number of images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.settings import Settings
from tasks.synthetic.cells import write_collection
from tests.support.measuring import QUICK, Record

FEW, MANY = (500, 1_500) if QUICK else (2_000, 20_000)
LIMIT = 1.10  # of the worker that has few

# In a process of its own, so that the peak is that of this batch alone.
SCREEN = """
import json, sys
from datetime import date
from flows.cluster.client import open_client
from flows.screen import extract
from flows.stages.publish import publish
from flows.stages.scoring import score_slides
from flows.settings import Settings
from storage.batches.manifests import BatchPlan, freeze_batch
from storage.models.detectors import load_detector_card
from storage.models.classifiers import load_card
from storage.records import now
from storage.store import Store
from tasks.images.listing import list_images

def peak():
    # Not getrusage: a process starts with the peak of the one that it was made by.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024

if __name__ == "__main__":
    settings, images, name = Settings(store=sys.argv[1], workers=2), sys.argv[2], sys.argv[3]
    store = Store(settings.store)
    detector = load_detector_card(store)
    card = load_card(store, detector.model)
    plan = BatchPlan(name=name, images=images, limit=None, shard_rows=settings.shard_rows,
                     batch_date=date(2026, 1, 1), started_at=now())
    batch = freeze_batch(store, plan, list_images(images))
    with open_client(settings) as client:
        extract.fn(client, store, batch, card)
        parts = score_slides.fn(client, store, batch, card, detector)
        workers = client.run(peak)
    seal = publish.fn(store, settings, batch, card, detector, parts)
    assert seal.scored == batch.rows
    print(json.dumps({"worker": max(workers.values()), "coordinator": peak()}))
"""


@pytest.mark.benchmark
def test_peak_memory_does_not_grow_with_the_number_of_images(
    fitted: Settings, tmp_path: Path, record: Record
) -> None:
    write_collection(
        tmp_path / "cells", patients=5, cells_per_patient=40, parasitized_fraction=0.5, seed=0
    )
    cells = sorted((tmp_path / "cells").rglob("*.png"))
    script = tmp_path / "screen.py"
    script.write_text(SCREEN)
    peaks = {}
    for number in (FEW, MANY):
        folder = tmp_path / str(number)
        folder.mkdir()
        for i in range(number):
            os.link(cells[i % len(cells)], folder / f"{i}.png")
        done = subprocess.run(
            [sys.executable, script, fitted.store, folder, f"memory-{number}"],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[number] = json.loads(done.stdout.splitlines()[-1])
    for who in ("worker", "coordinator"):
        few, many = peaks[FEW][who], peaks[MANY][who]
        name = f"peak memory of the {who}, {MANY:,} images / {FEW:,}"
        record(name, "MiB", ours=[many], rival=[few])
    growth = peaks[MANY]["worker"] / peaks[FEW]["worker"]
    record("growth of that peak of the worker", "times", ours=[growth], limit=LIMIT)
    assert growth < LIMIT
