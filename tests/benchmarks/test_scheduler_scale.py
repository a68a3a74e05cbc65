"""Jobs that sleep: a hundred thousand on one worker, and nights of a million cells on 64 workers.

For every measurement coordinator and scheduler are one new process, and all workers another, so
that workers wait for each other more than processes of their own would.
"""

import json

import pytest

from tests.support import paths, processes, sleepers
from tests.support.measuring import QUICK, Record

SIZES = (1_000, 10_000) if QUICK else (1_000, 10_000, 100_000)
LIMIT = 0.005  # seconds a job
PARTS = 10
WORKERS, CELLS, SHARD, CELL = 64, 50_000 if QUICK else 1_000_000, 512, 0.001  # seconds a cell


def simulate(
    jobs: int, *, workers: int = 1, threads: int = 64, asleep: float = 0.01
) -> dict[str, list[float]]:
    wanted = map(str, (workers, threads, jobs, asleep, PARTS))
    done = processes.python("-m", sleepers.__name__, *wanted, cwd=paths.ROOT)
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
