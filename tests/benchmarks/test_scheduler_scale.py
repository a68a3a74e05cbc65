"""Jobs that sleep: a hundred thousand on one worker, and a night of a million cells on 64 workers.

Coordinator, scheduler and workers are one process here, a new one for every measurement, so its
growth is that of all of them, and they wait for each other more than processes of their own would.
"""

import json
import subprocess
import sys

import pytest

from tests.support.measuring import QUICK, Record
from tests.support.paths import ROOT

SIZES = (1_000, 10_000) if QUICK else (1_000, 10_000, 100_000)
LIMIT = 0.005  # seconds a job
PARTS = 10
WORKERS, CELLS, SHARD, CELL = 64, 50_000 if QUICK else 1_000_000, 512, 0.001  # seconds a cell

SCRIPT = """
import json, sys, time
from dataclasses import dataclass
from distributed import Client, LocalCluster
from flows.cluster.executor import run_in_order
from tests.support.peak import resident

@dataclass(frozen=True)
class Job:
    number: int

def work(job):
    time.sleep(asleep)
    return job.number

jobs, parts, workers, threads = map(int, sys.argv[1:5])
asleep = float(sys.argv[5])
with (
    LocalCluster(processes=False, n_workers=workers, threads_per_worker=threads,
                 dashboard_address=None) as cluster,
    Client(cluster, set_as_default=False) as client,
):
    list(run_in_order(client, work, [Job(i) for i in range(300)], title="warm-up"))
    before, started, seconds = resident(), time.perf_counter(), []
    for done in run_in_order(client, work, (Job(i) for i in range(jobs)), title="scale"):
        if (done + 1) % (jobs // parts) == 0:
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
    print(json.dumps({"seconds": seconds, "grown": [resident() - before]}))
"""


def simulate(
    jobs: int, *, workers: int = 1, threads: int = 64, asleep: float = 0.01
) -> dict[str, list[float]]:
    wanted = map(str, (jobs, PARTS, workers, threads, asleep))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *wanted],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.benchmark
def test_cost_of_a_job_against_the_number_of_jobs(record: Record) -> None:
    cost = {}
    for jobs in SIZES:
        found = simulate(jobs)
        each = [1000 * seconds / (jobs // PARTS) for seconds in found["seconds"]]
        # The spread is that over tenths of the run: a cost that grew would show in it.
        record(f"{jobs} jobs, a job", "ms", ours=each, limit=1000 * LIMIT)
        record(f"{jobs} jobs, growth of the process", "MiB", ours=found["grown"])
        cost[jobs] = sum(each) / PARTS
    few, many = SIZES[-2:]
    record(f"a job among {many} / among {few}", "ms", ours=[cost[many]], rival=[cost[few]],
           bound=0.5)  # fmt: skip


@pytest.mark.benchmark
def test_the_share_of_their_time_that_many_workers_compute(record: Record) -> None:
    """What a worker does beside a shard's cells is a part of the shard's time here."""
    jobs, asleep = CELLS // SHARD, SHARD * CELL
    seconds = sum(simulate(jobs, workers=WORKERS, threads=1, asleep=asleep)["seconds"])
    record(
        f"{WORKERS} workers, {CELLS} cells, share of their time in which they extract",
        "",
        ours=[jobs * asleep / WORKERS / seconds],
        limit=0.9,
        bound=0.9,
        higher_is_better=True,
    )
