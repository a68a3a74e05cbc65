"""A slide from its file to the report: memory against its size, and speed beside cut-out cells."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from flows.settings import Settings
from tasks.images.regions import find, image_refs
from tests.support.measuring import QUICK, Record
from tests.support.rendered_slides import render_slide

SMALL, LARGE = (4_000, 8_000) if QUICK else (10_000, 40_000)
FIELDS = {SMALL: 9, LARGE: 36} if QUICK else {SMALL: 50, LARGE: 600}
ROUNDS = 1 if QUICK else 3
LOOK = 0.2  # seconds

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("slides")
    for side in (SMALL, LARGE):
        (folder / str(side)).mkdir()
        path = folder / str(side) / "slide.tif"
        render_slide(path, width=side, height=side, fields=FIELDS[side], thick=9, seed=0, levels=4)
    return {side: folder / str(side) for side in (SMALL, LARGE)}


def run(settings: Settings, *arguments: str) -> tuple[float, float, dict[str, object]]:
    """Seconds, MiB that the largest of its processes took, and outcome of a command."""
    started = time.monotonic()
    command = [sys.executable, "-m", "flows.commands.main", *arguments, "--json"]
    options = ["--store", settings.store, "--workers", "2", "--quiet"]
    largest = 0.0
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            largest = max(largest, _largest(process.pid))
            time.sleep(LOOK)
        assert process.stdout is not None
        outcome = json.loads(process.stdout.read())
    return time.monotonic() - started, largest, outcome


def _largest(pid: int) -> float:
    """MiB that the largest of a process and those below it takes now."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return max(each.memory_info().rss for each in family) / 2**20
    except psutil.NoSuchProcess:  # one has just ended
        return 0.0


def test_memory_of_a_night_does_not_depend_on_the_slides_size(
    slides: dict[int, Path], fitted: Settings, record: Record
) -> None:
    peaks: dict[str, dict[int, float]] = {"segment": {}, "screen": {}}
    for side, folder in slides.items():
        name = f"side-{side}"
        seconds, peaks["segment"][side], made = run(
            fitted, "segment", "--images", str(folder), "--name", name
        )
        record(f"segment: cells a second of a slide of {side} pixels a side", "cells/s",
               ours=[float(str(made["images"])) / seconds])  # fmt: skip
        manifest = str(made["manifest"])
        _, peaks["screen"][side], done = run(
            fitted, "screen", "--images", manifest, "--batch", name
        )
        assert done["scored"] == made["images"]
    for command, peak in peaks.items():
        record(f"{command}: largest process, {LARGE} beside {SMALL} pixels a side", "MiB",
               ours=[peak[LARGE]], rival=[peak[SMALL]])  # fmt: skip
        assert peak[LARGE] < 1.25 * peak[SMALL]


def test_cells_of_a_slide_beside_the_same_cells_as_files(
    slides: dict[int, Path], fitted: Settings, tmp_path: Path, record: Record
) -> None:
    _, _, made = run(fitted, "segment", "--images", str(slides[SMALL]), "--name", "speed")
    refs = image_refs(pq.read_table(str(made["manifest"])))
    for number, ref in enumerate(refs):
        find(ref).image().save(tmp_path / f"{number:06d}.png", compress_level=1)
    sources = {"slide": str(made["manifest"]), "files": str(tmp_path)}
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(ROUNDS):
        for name, images in sources.items():
            # Anew each time, so that no features of before are used again.
            arguments = ("--images", images, "--batch", f"speed-{name}", "--force")
            seconds, _, done = run(fitted, "screen", *arguments)
            rates[name].append(float(str(done["scored"])) / seconds)
    record(f"{len(refs):,} cells of a slide, and as files", "cells/s", ours=rates["slide"],
           rival=rates["files"], higher_is_better=True)  # fmt: skip
