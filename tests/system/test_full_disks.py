"""Disks that fill up in the middle of a run, wherever: it ends with a line, and nothing is torn.

With room again the same command goes on, to the same bytes.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.faults.calls import NO_FAULT
from tests.support.faults.counts import Counts
from tests.support.faults.disks import FilledBench, memory_of
from tests.support.faults.runs import Runs
from tests.support.faults.trials import Bench, count

FLOWS = ("screening", "fitting", "retracting", "segmenting")
MEGABYTES = 24
PAGE = 4096
ROOMS = 15  # from none to what a run needs, tried


@pytest.fixture(scope="module")
def filled(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilledBench]:
    """The bench on a small disk in memory."""
    with memory_of(MEGABYTES, tmp_path_factory.mktemp("full") / "disk") as root:
        runs = Runs(bench.runs.process, bench.runs.scratch, root, bench.runs.settings)
        made = FilledBench(runs, bench.folder, bench.template, room=MEGABYTES << 20)
        made.reset()
        runs.warm()
        yield made


def needed(bench: FilledBench, flow: str) -> int:
    """The most that a run needs beside what is there: all of its files, and those replaced."""
    bench.calm(getattr(bench, flow))
    used = sum(path.lstat().st_blocks * 512 for path in Path(bench.runs.store).rglob("*"))
    bench.reset()
    before = sum(path.lstat().st_blocks * 512 for path in Path(bench.runs.store).rglob("*"))
    return used - before + 16 * PAGE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flow", "rooms"),
    [("screening", 4), *(pytest.param(flow, ROOMS, marks=pytest.mark.slow) for flow in FLOWS)],
)
def test_a_run_on_a_disk_that_fills_up_is_finished_when_there_is_room(
    filled: FilledBench, flow: str, rooms: int
) -> None:
    counts, run, most = Counts(f"full disks, {flow}"), getattr(filled, flow), needed(filled, flow)
    for number in range(rooms):
        room = most * number // (rooms - 1) // PAGE * PAGE
        ends = count(replace(filled, room=room), run, counts, "no room", NO_FAULT)
        counts.note("no room", "went on", ends[0].code == 0)
        error = ends[0].error
        if ends[0].code and not (error and "No space left" in error and "/store" in error):
            counts.add("message", f"{room} bytes: {error}", "unclear")
    counts.check()
