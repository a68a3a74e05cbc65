"""Jobs that sleep, run by the flows' executor: what Dask and the executor add to work.

``python -m tests.support.sleepers WORKERS THREADS JOBS SECONDS PARTS`` runs jobs that sleep for so
many seconds, and prints as JSON the seconds that each part of the jobs took, and the MiB by which
the process of coordinator and scheduler grew.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dask
from distributed import Client, LocalCluster

from flows.cluster.executor import run_in_order
from flows.cluster.kinds import STARTED
from tests.support.paths import ROOT
from tests.support.peak import resident

WARM_UP = 300  # jobs


@dataclass(frozen=True)
class Nap:
    """A job: its number, and the seconds that it takes."""

    number: int
    seconds: float


def naps(count: int, seconds: float) -> Iterator[Nap]:
    return (Nap(number, seconds) for number in range(count))


def sleep(nap: Nap) -> int:
    time.sleep(nap.seconds)
    return nap.number


@contextmanager
def opened(workers: int, threads: int) -> Iterator[Client]:
    """Start workers that are one process together, beside that of coordinator and scheduler."""
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", dashboard_address=None
    ) as cluster:
        one = {"cls": "distributed.Worker", "opts": {"nthreads": threads}}
        spec = json.dumps({str(number): one for number in range(workers)})
        command = ["distributed.cli.dask_spec", cluster.scheduler_address, "--spec", spec]
        # So many workers of one process would spend it on measuring themselves.
        quiet = dask.config.serialize(STARTED | {"logging.distributed": "error"})
        environment = os.environ | {"DASK_INTERNAL_INHERIT_CONFIG": quiet}
        crew = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment)
        try:
            with Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=120)
                yield client
        finally:
            crew.terminate()
            crew.wait()


def run(workers: int, threads: int, jobs: int, asleep: float, parts: int) -> None:
    with opened(workers, threads) as client:
        list(run_in_order(client, sleep, naps(WARM_UP, asleep), title="warm-up"))
        before, started, seconds = resident(), time.perf_counter(), []
        for done in run_in_order(client, sleep, naps(jobs, asleep), title="scale"):
            if (done + 1) % (jobs // parts) == 0:
                seconds.append(time.perf_counter() - started)
                started = time.perf_counter()
        print(json.dumps({"seconds": seconds, "grown": [resident() - before]}))


if __name__ == "__main__":
    from tests.support import sleepers  # as workers import the jobs

    workers, threads, jobs, asleep, parts = sys.argv[1:]
    sleepers.run(int(workers), int(threads), int(jobs), float(asleep), int(parts))
