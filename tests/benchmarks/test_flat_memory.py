"""Memory of coordinator and worker against the number of images, up to a million.

Features are made up, as reading and the network take the same for every shard; all else is the
flow itself, in processes of its own. ``SLIDEWATCH_BENCH_IMAGES=1000000`` adds a night of a million.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from storage.store import Store
from tests.support import made_up_night, paths, processes
from tests.support.measuring import QUICK, Record

MOST = int(os.environ.get("SLIDEWATCH_BENCH_IMAGES", "100000"))
SIZES = (5_000, 20_000) if QUICK else tuple(n for n in (10_000, 100_000, 1_000_000) if n <= MOST)
GROWTH = (
    1.25  # at most, of a peak when a night has ten times as many images; the aim is 1.05 in all
)


def night(settings: Any, images: Path) -> dict[str, Any]:
    done = processes.python(
        "-m", "tests.support.made_up_night", settings.store, images, images.name, cwd=paths.ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.benchmark
def test_memory_does_not_depend_on_the_number_of_images(
    store_with_model: Store, tmp_path: Path, record: Record
) -> None:
    settings = made_up_night.prepare(store_with_model, tmp_path / "cells")
    image = next((tmp_path / "cells").rglob("*.png"))
    peaks: dict[str, dict[int, float]] = {"coordinator": {}, "worker": {}}
    for size in SIZES:
        found = night(settings, made_up_night.folder_of(image, size, tmp_path / f"night-{size}"))
        assert found["scored"] == size
        peaks["worker"][size] = found["worker"]
        peaks["coordinator"][size] = max(taken for _, taken in found["coordinator"])
        for who, taken in peaks.items():
            record(f"peak of the {who}, {size:,} images", "MiB", ours=[taken[size]])
        for stage, seconds, own in found["seconds"]:
            record(f"{stage}, {size:,} images", "s", ours=[seconds])
            record(f"{stage}, {size:,} images, the coordinator's own", "s", ours=[own])
    few, many = SIZES[0], SIZES[-1]
    for who, taken in peaks.items():
        grown = taken[many] / taken[few]
        record(f"{who}, {many:,} images / {few:,}", "times", ours=[grown], limit=1.05)
    for taken in peaks.values():
        assert taken[many] <= GROWTH ** math.log10(many / few) * taken[few]
