"""A night whose features are made up: everything that screening does beside reading and network.

``python -m tests.support.made_up_night STORE IMAGES`` screens images in a store that
`prepare` made, and prints as JSON, in MiB, what the coordinator took at most in each stage and
what the worker took at most.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

from flows.cluster.client import open_client
from flows.fit import fit
from flows.jobs import shard
from flows.monitoring import telemetry
from flows.options.flows import Fit, Screen
from flows.settings import Settings
from flows.smears.night import screen
from storage.batches.features import read_block
from storage.batches.manifests import load_batch
from storage.store import Store
from tasks.images.regions import ImageRef
from tasks.network.extraction import Features, Loaded
from tests.support.images import write_cells
from tests.support.peak import peak, resident, start_peak

MODEL, FITTED = "tiny", "fitted"
LINKS = 50_000  # names of one file; a filesystem allows 65,000
A_PATIENT, A_SLIDE, A_FIELD = 1_000, 500, 100  # images


def prepare(store: Store, cells: Path) -> Settings:
    """Fit a detector for the model ``tiny`` of a store on rendered cells."""
    write_cells(cells, 30, 30, seed=3)
    settings = Settings(store=store.url, workers=1)
    fit.fn(Fit(images=str(cells), batch=FITTED), settings)
    return settings


def folder_of(image: Path, number: int, to: Path) -> Path:
    """Give an image many names, as the NIH gives them, a thousand to the folder of a patient."""
    source = image
    for i in range(number):
        patient, field = i // A_PATIENT, i // A_FIELD
        folder = to / f"C{patient}"
        if i % A_PATIENT == 0:
            folder.mkdir(parents=True)
        when = f"2026010{1 + i // A_SLIDE % 2}_{field % 24:02}{field % 60:02}00"
        name = folder / f"C{patient}P{patient}thinF_IMG_{when}_cell_{i}.png"
        if i % LINKS == 0:
            source = name
            source.write_bytes(image.read_bytes())
        else:
            name.hardlink_to(source)
    return to


class _Bank:
    """Features of fitted cells, from which those of a night are drawn."""

    def __init__(self, store: str) -> None:
        batch = load_batch(Store(store), FITTED)
        self.block = read_block(Store(store), MODEL, batch.key, 0, batch.rows)

    def extract(self, _: Any, refs: list[ImageRef], **__: Any) -> Features:
        """Stand in for `tasks.network.extraction.extract`."""
        digests = [sha256(ref.uri.encode()).digest() for ref in refs]
        drawn = np.asarray([int.from_bytes(each[:4]) for each in digests]) % len(self.block)
        rng = np.random.default_rng(drawn[0])
        taps = {
            name: values[drawn] + 0.1 * values.std(axis=0) * rng.standard_normal(
                (len(refs), values.shape[1]), np.float32)
            for name, values in self.block.taps.items()
        }  # fmt: skip
        images = [Loaded(each, (50, 50), (200.0, 150.0, 170.0)) for each in digests]
        return Features(taps, self.block.logits[drawn], images, np.zeros(len(drawn), bool))


def stand_in(store: str) -> None:
    """Let this worker read no image and run no network, until it ends."""
    bank = _Bank(store)
    shard.extract = bank.extract  # type: ignore[assignment]
    shard._network = lambda job: None  # type: ignore[assignment]


def screened(settings: Settings, images: Path, name: str) -> dict[str, Any]:
    """Screen a night by the flow's own function; tell MiB, seconds, and figures of the report."""
    coordinator: list[tuple[str, float]] = []
    seconds: list[tuple[str, float, float]] = []
    workers: list[float] = []
    by_stage: list[tuple[str, float]] = []
    clients: list[Client] = []

    @contextmanager
    def opened(chosen: Settings) -> Iterator[Client]:
        with open_client(chosen) as client:
            client.run(stand_in, chosen.store)
            clients.append(client)
            yield client
            workers.extend(client.run(peak).values())
            clients.clear()

    @contextmanager
    def measured(stage: str) -> Iterator[None]:
        coordinator.append((f"before {stage}", peak()))
        start_peak()
        begun, cpu = time.monotonic(), time.process_time()
        with whole(stage):
            yield
        seconds.append((stage, time.monotonic() - begun, time.process_time() - cpu))
        coordinator.append((stage, peak()))
        for client in clients:
            by_stage.append((stage, max(client.run(resident).values())))

    whole = telemetry.stage
    with pytest.MonkeyPatch.context() as patch:
        for module in ("flows.smears.night", "flows.screen", "flows.smears.call"):
            patch.setattr(f"{module}.open_client", opened)
        for module in ("flows.monitoring.telemetry", "flows.smears.stages.sorting"):
            patch.setattr(f"{module}.stage", measured)
        outcome = screen.fn(Screen(images=str(images), batch=name), settings)
    coordinator.append(("after", peak()))
    cpu = os.times()
    return {
        "coordinator": coordinator,
        "worker": max(workers),
        "worker_by_stage": by_stage,
        "seconds": seconds,
        "cpu": cpu.user + cpu.system,
        "scored": outcome.scored,
        "report": outcome.report,
        "page": outcome.page,
        "now": resident(),
    }


if __name__ == "__main__":
    url, images, name = sys.argv[1:]
    print(json.dumps(screened(Settings(store=url, workers=1), Path(images), name)))
