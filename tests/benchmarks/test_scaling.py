"""Screening by two workers against one: what a second core brings.

A worker decodes in threads beside the network, so a lone one uses some of the second core as well.
Each is therefore bound to a core of its own, as if it had a machine of one core. Two cores of a
machine share memory and often more, so the limit is what they bring the network alone.
"""

import os
import time

import numpy as np
import pytest
from distributed import Client

from flows.cluster.client import open_client
from flows.cluster.kinds import stay_on
from flows.jobs.networks import load_inference
from flows.settings import Settings
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.images.listing import list_images
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.screening import screen_anew

IMAGES, WARM_UP, ROUNDS = (512, 512, 2) if QUICK else (8192, 1024, 3)
BATCHES = 8 if QUICK else 40


def bind_workers(client: Client) -> None:
    for core, worker in zip(sorted(os.sched_getaffinity(0)), client.nthreads(), strict=False):
        client.run(stay_on, core, workers=[worker])


def passes(store: Store, model: str) -> float:
    """Run the network on images that are there already; returns images a second."""
    network = load_inference(store, load_card(store, model))
    side = network.spec.side
    pixels = np.zeros((network.device.batch, side, side, 3), np.uint8)
    network.run(pixels)
    started = time.perf_counter()
    for _ in range(BATCHES):
        network.run(pixels)
    return BATCHES * network.device.batch / (time.perf_counter() - started)


def of_the_machine(client: Client, settings: Settings) -> float:
    """Measure how much faster the network is on both workers at once than on one."""
    store = Store(settings.store)
    model, workers = load_detector_card(store).model, list(client.nthreads())
    (alone,) = client.run(passes, store, model, workers=workers[:1]).values()
    return sum(client.run(passes, store, model).values()) / alone


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
        machine = [of_the_machine(both, settings) for _ in range(ROUNDS)]
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
    record(
        "scaling, beside that of the network alone",
        "times",
        ours=scaling,
        rival=machine,
        bound=0.7,
        higher_is_better=True,
    )
