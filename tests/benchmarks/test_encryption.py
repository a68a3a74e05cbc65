"""Measure the cost of the encryption that keeps a machine's other users out of a local cluster.

The rival is the same cluster without TLS, in the same rounds; its jobs do nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pytest
from distributed import Client
from distributed.security import Security

from flows.cluster import client as module
from flows.cluster.client import open_client
from flows.cluster.executor import run_in_order
from flows.settings import Settings
from tests.support.measuring import QUICK, Record, in_turn

JOBS, ROUNDS, STARTS = (200, 2, 1) if QUICK else (1000, 5, 3)
WAYS = ("ours", "rival")

pytestmark = pytest.mark.benchmark


def nothing(job: int) -> int:
    return job


@contextmanager
def cluster(way: str) -> Iterator[Client]:
    """Open a local cluster of two workers; the rival's has no TLS."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "rival":
            patch.setattr(Security, "temporary", Security)
            # Not the cluster that is open already.
            patch.setattr(module, "_OPENED", ContextVar("rival", default=None))
        with open_client(Settings(workers=2)) as client:
            assert client.scheduler_info()["address"].startswith("tls" if way == "ours" else "tcp")
            yield client


def test_cost_of_encryption_for_a_job(record: Record) -> None:
    def run(client: Client) -> None:
        assert len(list(run_in_order(client, nothing, range(JOBS), title="nothing"))) == JOBS

    with cluster("ours") as encrypted, cluster("rival") as plain:
        clients = dict(zip(WAYS, (encrypted, plain), strict=True))
        for client in clients.values():
            run(client)
        taken = in_turn(ROUNDS, {way: lambda c=c: run(c) for way, c in clients.items()})
    each = {way: [1000 * seconds / JOBS for seconds in taken[way]] for way in WAYS}
    record("a job that does nothing, with TLS / without", "ms", **each, bound=0.3)


def test_cost_of_encryption_for_a_cluster(record: Record) -> None:
    def start(way: str) -> None:
        with cluster(way):
            pass

    start("ours")  # the workers' parent stays
    taken = in_turn(STARTS, {way: lambda way=way: start(way) for way in WAYS})
    record("start and end of 2 workers, with TLS / without", "s", **taken, bound=0.3)
