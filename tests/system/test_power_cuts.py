"""The power of a disk is cut at a write of a run; after a mount the same command goes on.

What the store had said to be written is there, and the same bytes come out. The disks are files on
loop devices, and the cut is the filesystem's own shutdown: what was not synced is gone.
"""

import random
from collections.abc import Iterator

import pytest

from tests.support.faults.calls import Fault
from tests.support.faults.counts import Counts
from tests.support.faults.disks import PoweredBench, disk_of
from tests.support.faults.runs import Runs
from tests.support.faults.trials import Bench, count

FLOWS = ("screening", "fitting", "retracting", "segmenting")
CUTS = 25  # of all calls of a run, tried on each filesystem


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def powered(
    request: pytest.FixtureRequest, bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PoweredBench]:
    """The bench on a disk whose power can be cut."""
    with disk_of(request.param, tmp_path_factory.mktemp("power")) as disk:
        root = disk.at / "data"
        root.mkdir()
        runs = Runs(bench.runs.process, bench.runs.scratch, root, bench.runs.settings)
        made = PoweredBench(runs, bench.folder, bench.template, disk=disk)
        made.reset()
        runs.warm()
        made.prepare()
        yield made


def cut(bench: PoweredBench, flow: str, points: list[int]) -> None:
    assert bench.disk
    counts, run = Counts(f"power cuts, {bench.disk.at.name}"), getattr(bench, flow)
    total = len(bench.calm(run).ended.calls)
    for point in points:
        count(bench, run, counts, f"{flow} ({len(points)} of {total})", Fault("cut", point))
    counts.check()


@pytest.mark.slow
def test_what_a_night_has_written_is_there_after_a_power_cut(powered: PoweredBench) -> None:
    """Cut right after a shard has been entered into the ledger, and after the seal."""
    calls = powered.calm(powered.screening).ended.calls
    names = ("/ledger/tiny/000000.json", "/sealed/")
    renamed = [
        next(n for n, call in enumerate(calls, 1) if call.startswith("rename") and name in call)
        for name in names
    ]
    # The next call but one comes after the folder was synced, too.
    cut(powered, "screening", [point + 2 for point in renamed])


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
def test_a_power_cut_at_any_write_loses_nothing_that_was_said_to_be_kept(
    powered: PoweredBench, flow: str
) -> None:
    calls = powered.calm(getattr(powered, flow)).ended.calls
    rng = random.Random(flow)
    cut(powered, flow, sorted(rng.sample(range(1, len(calls) + 1), CUTS)))
