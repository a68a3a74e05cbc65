"""Memory and time of scoring cells by their slide, against the number of slides.

The night and its features are made up, so that 2 million cells need no network and no image.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.measuring import QUICK, Record
from tests.support.paths import ROOT

CELLS = 2_000 if QUICK else 20_000  # of a slide
FEW, MANY = (1, 5) if QUICK else (1, 100)  # slides
GROWTH = 1.05


def score(store: Path, slides: int) -> dict[str, float]:
    """Score a night in a process of its own, whose worker has done nothing before."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.second_stage", store, str(slides), str(CELLS)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.benchmark
def test_memory_of_the_second_stage_does_not_grow_with_the_number_of_slides(
    tmp_path: Path, record: Record
) -> None:
    found = {slides: score(tmp_path / str(slides), slides) for slides in (FEW, MANY)}
    peaks = {slides: each["worker"] for slides, each in found.items()}
    for slides, each in peaks.items():
        record(f"{slides} slides of {CELLS} cells, peak of the worker", "MiB", ours=[each])
    record(
        f"peak at {MANY} slides / at {FEW}", "times", ours=[peaks[MANY] / peaks[FEW]], limit=GROWTH
    )
    seconds = found[MANY]["seconds"] * 1e6 / (MANY * CELLS)
    record("a million cells by their slide, one worker", "s", ours=[seconds])
    assert found[MANY]["parts"] >= MANY / 4
    assert peaks[MANY] < GROWTH * peaks[FEW]
