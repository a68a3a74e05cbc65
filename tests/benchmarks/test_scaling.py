"""Screening by two workers against one: what a second core brings.

A worker decodes in threads beside the network, so a lone one uses some of the second core as well.
Each is therefore bound to a core of its own, as if it had a machine of one core.
"""

import os
from pathlib import Path

import pytest
from distributed import Client

from flows.cluster.client import open_client
from flows.settings import Settings
from tasks.images.listing import list_images
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.screening import screen_anew

IMAGES, WARM_UP, ROUNDS = (512, 512, 2) if QUICK else (2048, 1024, 3)


def bind(core: int) -> None:
    """Bind all threads of this process, and so those that they start, to a core."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def bind_workers(client: Client) -> None:
    for core, worker in zip(sorted(os.sched_getaffinity(0)), client.nthreads(), strict=False):
        client.run(bind, core, workers=[worker])


@pytest.mark.benchmark
def test_images_a_second_of_one_worker_and_of_two(
    cells: str, fitted: Settings, record: Record
) -> None:
    # Small shards, so that both workers end at nearly the same time.
    settings = fitted.model_copy(update={"shard_rows": 128})
    one, two = (settings.model_copy(update={"workers": n}) for n in (1, 2))
    manifest = list_images(cells, limit=IMAGES)
    with open_client(one) as alone, open_client(two) as both:
        clients = {"1": alone, "2": both}
        for client in clients.values():
            bind_workers(client)
        for client in clients.values():
            screen_anew(client, settings, manifest.slice(0, WARM_UP), "warm-up")
        taken = in_turn(
            ROUNDS,
            {
                workers: lambda client=client: screen_anew(client, settings, manifest, "scaled")
                for workers, client in clients.items()
            },
        )
    speed = {workers: [IMAGES / seconds for seconds in each] for workers, each in taken.items()}
    record(
        f"{IMAGES} cells, 2 workers / 1",
        "images/s",
        ours=speed["2"],
        rival=speed["1"],
        bound=1.2,
        higher_is_better=True,
    )
    scaling = [b / a for a, b in zip(speed["1"], speed["2"], strict=True)]
    record("scaling from 1 worker to 2", "times", ours=scaling, limit=1.8, higher_is_better=True)
