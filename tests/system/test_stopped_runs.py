"""Runs that are stopped for longer than their lease lasts, and come back when another has gone on.

Whoever comes back ends with a line that names who took over, and has changed nothing; or it had
nothing more to do. Clocks that are apart decide when a lease is taken over, and never who may
write.
"""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster

from flows.cluster.executor import run_jobs
from flows.cluster.kinds import STARTED
from tests.support.faults.calls import Fault
from tests.support.faults.counts import Counts
from tests.support.faults.runs import Run, differing, files_of
from tests.support.faults.trials import Bench

LIFETIME = 2.0  # seconds
HOUR = 3600.0
EVERY = 3


def stopped(
    bench: Bench, counts: Counts, kind: str, point: int, second: Run, ahead: float = 0.0
) -> str:
    """Stop a night before a call, let another run go on, and let the first one come back.

    The other one waits for a renewal in vain, perhaps with a clock that is ahead. Returned is what
    the first one says at its end.
    """
    run, call = bench.screening, bench.calm(bench.screening).ended.calls[point - 1]
    bench.reset()
    lifetime = None if ahead else LIFETIME
    first = bench.runs.start(run, Fault("stop", point), lifetime=lifetime)
    state, _ = first.state()
    if state != "stopped":
        counts.add(kind, f"at {point} ({call}): it {state} instead of stopping", "hung")
        return ""
    time.sleep(LIFETIME)
    took_over = bench.runs.run(second, lifetime=LIFETIME, clock=[ahead])
    before = files_of(bench.runs.store)
    os.kill(first.pid, signal.SIGCONT)
    came_back = first.wait()
    found = []
    if took_over.hung or came_back.hung:
        found.append("hung")
    if took_over.code != 0:
        found.append("lost")
    changed = differing(files_of(bench.runs.store), before)
    # What a worker writes late is of its own attempt, and nobody reads features of a former one.
    if [name for name in changed if not name.startswith("features/tiny/night.zarr/")]:
        found.append("mixed")
    if second.options == run.options and differing(before, bench.calm(run).files):
        found.append("mixed")
    if len(came_back.told) + len(took_over.told) > 1:
        counts.note(kind, "told twice")
    counts.note(kind, "went on", came_back.code == 0)
    said = came_back.error or ""
    # Before it has the lease, or a manifest, it is told of the batch that is there by now.
    if "states other figures than the report" in said:
        found.append("misled")
    elif came_back.code and not ("taken over by" in said or "StoreError: batch night " in said):
        found.append("unclear")
    where = f"at {point} ({call}): {took_over.error}; {said}"
    counts.add(kind, where, *sorted(set(found)))
    return said


def publishing(bench: Bench) -> list[int]:
    """The points from the first report on to the end."""
    calm = bench.calm(bench.screening)
    first = next(n for n, call in enumerate(calm.ended.calls, 1) if "reports/" in call)
    return [point for point in calm.points() if point >= first]


def other(bench: Bench) -> Run:
    """The same batch started anew on other images."""
    options = {"images": str(bench.folder / "more"), "batch": "night", "force": True}
    return Run("screen", options)


@pytest.mark.slow
@pytest.mark.parametrize("anywhere", [False, True])
def test_a_run_that_is_stopped_changes_nothing_when_it_comes_back(
    bench: Bench, anywhere: bool
) -> None:
    """Anywhere, or once while it publishes."""
    counts, points = Counts("stopped"), bench.calm(bench.screening).points()[::EVERY]
    for point in points if anywhere else random.Random(1).sample(publishing(bench), 1):
        stopped(bench, counts, "the same run goes on", point, bench.screening)
        stopped(bench, counts, "another attempt goes on", point, other(bench))
    counts.check()


def test_a_run_that_is_stopped_after_its_last_report_is_told_of_the_attempt_published_since(
    bench: Bench,
) -> None:
    """It writes nothing more, so no fence is in its way: it compares itself with the report."""
    counts, calls = Counts("stopped after the page"), bench.calm(bench.screening).ended.calls
    page = next(n for n, call in enumerate(calls, 1) if call.endswith("reports/html/night.html"))
    said = stopped(bench, counts, "another attempt goes on", page + 1, other(bench), HOUR)
    counts.check()
    assert said.startswith("LeaseLostError: attempt 2 at batch night was published since, after ")
    assert "taken over by" in said


@pytest.mark.slow
@pytest.mark.parametrize("apart", [HOUR, -HOUR])
def test_two_hosts_with_clocks_apart_do_not_mix_their_work(bench: Bench, apart: float) -> None:
    """The second one waits its turn or takes over; what the first one does then is all or none."""
    counts, run = Counts(f"clocks apart, {apart:+.0f} s"), bench.screening
    for point in random.Random(2).sample(bench.calm(run).points(), 3):
        bench.reset()
        first = bench.runs.start(run, Fault("stop", point), clock=[apart])
        assert first.state()[0] == "stopped"
        second = bench.runs.run(run)
        os.kill(first.pid, signal.SIGCONT)
        came_back = first.wait()
        found = []
        if second.hung or came_back.hung:
            found.append("hung")
        if second.code and "is being worked on by" not in str(second.error):
            found.append("unclear")
        if came_back.code and "taken over by" not in str(came_back.error):
            found.append("unclear")
        if second.code and came_back.code:
            found.append("lost")
        last = bench.runs.run(run)
        if last.code or differing(files_of(bench.runs.store), bench.calm(run).files):
            found.append("mixed")
        counts.note("the second host", "took over", second.code == 0)
        where = f"at {point}: {second.error}; {came_back.error}"
        counts.add("the second host", where, *sorted(set(found)))
    counts.check()


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_given_up_and_its_job_is_done_elsewhere(tmp_path: Path) -> None:
    """The scheduler waits for as long as Dask's `worker-ttl` says: by default five minutes."""
    marker = tmp_path / "stopped"
    with (
        dask.config.set(STARTED | {"distributed.scheduler.worker-ttl": "15s"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        jobs = [(number, str(marker)) for number in range(4)]
        assert list(run_jobs(client, _stop_once, jobs, title="stopped")) == [0, 1, 2, 3]


def _stop_once(job: tuple[int, str]) -> int:
    """Do the work, but stop the first worker that has job number 1."""
    number, marker = job
    with suppress(FileExistsError):
        if number == 1:
            with Path(marker).open("x") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
    return number
