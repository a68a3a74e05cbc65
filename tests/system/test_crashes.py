"""Crashes at every change of a store, and again in the recovery: the same bytes come out.

Each run is a process of its own that dies at its n-th call; see `tests.support.faults`. Compared is
every file of the store but leases, which name processes and times.
"""

import errno
import os
import random

import pytest

from tests.support.faults.calls import Fault
from tests.support.faults.counts import Counts
from tests.support.faults.trials import Bench, count

RECOVERIES = 1  # of all points at which a recovery may die, tried after each point of the first run
TORN = FAILING = 20  # of all calls of a run, tried
EVERY = 40  # of these points one is tried where no slow test is asked for
FLOWS = ("screening", "fitting", "retracting", "segmenting")
OF_LABORATORIES = ("withdrawing", "commissioning")


def test_a_screen_that_dies_at_any_change_of_the_store_is_finished_by_the_same_command(
    bench: Bench,
) -> None:
    counts = Counts("one night, dying once")
    points = bench.calm(bench.screening).points()
    for point in points[::EVERY]:
        kind = f"screen dies (one of {EVERY} of {len(points)})"
        count(bench, bench.screening, counts, kind, Fault("die", point))
    counts.check()


@pytest.mark.parametrize(
    ("flow", "begins"), [("retracting", "mkdir store/detectors/"), ("segmenting", "discard ")]
)
def test_a_run_that_dies_between_two_results_of_it_is_finished_by_the_same_command(
    bench: Bench, flow: str, begins: str
) -> None:
    """A retraction before it has its detector, a segmentation before its parts are gone."""
    counts, run = Counts(f"{flow}, dying in between"), getattr(bench, flow)
    calls = bench.calm(run).ended.calls
    point = next(number for number, call in enumerate(calls, 1) if call.startswith(begins))
    count(bench, run, counts, flow, Fault("die", point))
    counts.check()


@pytest.mark.slow
@pytest.mark.parametrize("flow", [*FLOWS, *OF_LABORATORIES])
def test_a_run_that_dies_at_any_call_and_in_its_recovery_leaves_the_same_bytes(
    request: pytest.FixtureRequest, flow: str
) -> None:
    bench = request.getfixturevalue("commissioned" if flow in OF_LABORATORIES else "bench")
    counts, run, rng = Counts(f"{flow}, dying"), getattr(bench, flow), random.Random(flow)
    calls, points = bench.calm(run).ended.calls, bench.calm(run).points()
    opened = [number for number, call in enumerate(calls, 1) if call.startswith("open")]
    for point in rng.sample(opened, min(TORN, len(opened))):
        count(bench, run, counts, f"in a write ({TORN} of {len(opened)})", Fault("tear", point))
    for point in points:
        count(bench, run, counts, "before a change (all)", Fault("die", point))
        for second in rng.sample(points, RECOVERIES):
            faults = (Fault("die", point), Fault("die", second))
            count(bench, run, counts, f"twice ({RECOVERIES} of {len(points)} each)", *faults)
    counts.check()


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("times", [1, 10_000])
def test_a_disk_that_fails_at_any_call_ends_the_run_with_a_line_or_changes_nothing(
    bench: Bench, flow: str, times: int
) -> None:
    counts, run = Counts(f"{flow}, disk fails {times} times"), getattr(bench, flow)
    calls = range(1, len(bench.calm(run).ended.calls) + 1)
    number = errno.EIO if times == 1 else errno.ENOSPC
    kind = f"{os.strerror(number)} ({FAILING} of {len(calls)})"
    for point in sorted(random.Random(flow).sample(calls, FAILING)):
        ends = count(bench, run, counts, kind, Fault("fail", point, number, times))
        counts.note(kind, "went on", ends[0].code == 0)
        error = str(ends[0].error)
        # An error is one line that says which file it is about.
        if ends[0].code != 0 and ("\n" in error or "/store" not in error):
            counts.add("message", f"at {point}: {error}", "unclear")
    counts.check()
