"""Measure the cost of a shard beside its images, and of a flow beside its shards."""

import os
from pathlib import Path

import pytest
import torch

from flows.cluster.client import open_client
from flows.cluster.executor import run_jobs
from flows.jobs.networks import load_inference
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import ShardJob
from flows.jobs.worker import settle_worker
from flows.settings import Settings
from flows.stages import scoring
from flows.stages.batch import run_shards
from flows.stages.publish import publish
from storage.batches.manifests import Shard, read_manifest
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.images.listing import list_images
from tasks.network.extraction import extract
from tasks.network.inference import Inference
from tests.support.images import whole_file, write_cells
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.processes import python
from tests.support.shards import Night, freeze_night

SHARDS, ROUNDS, FLOW_ROUNDS = (50, 2, 1) if QUICK else (200, 3, 3)
SHARD_LIMIT, FLOW_LIMIT = 10.0, 3.0  # milliseconds, seconds


def nothing(job: ShardJob) -> Shard:
    return job.shard


def tiny(settings: Settings, cells: str, name: str) -> Night:
    """A batch of shards of one image each."""
    store = Store(settings.store)
    card = load_card(store, load_detector_card(store).model)
    return freeze_night(store, list_images(cells, limit=SHARDS), name, card, 1)


def milliseconds(seconds: list[float]) -> list[float]:
    return [1000 * each / SHARDS for each in seconds]


@pytest.mark.benchmark
def test_overhead_of_a_shard_on_the_cluster(cells: str, fitted: Settings, record: Record) -> None:
    night = tiny(fitted, cells, "tiny")
    store, batch, card, jobs = night.store, night.batch, night.card, night.jobs()
    of = Screened(store, batch, card, load_detector_card(store))

    with open_client(fitted) as client:

        def shards() -> None:
            assert len(list(run_shards(client, store, batch, card, jobs, "tiny"))) == SHARDS

        def idle() -> None:
            assert len(list(run_jobs(client, nothing, jobs, title="nothing"))) == SHARDS

        def score() -> scoring.ScoredParts:
            return scoring.score(client, of)

        def publish_report() -> None:
            seal = publish(client, of, scored)
            assert seal.rows == SHARDS

        idle()
        shards()  # from now on their features are kept
        scored = score()
        publish_report()  # which takes away the scores before it
        taken = in_turn(
            ROUNDS, {"nothing": idle, "kept": shards, "score": score, "publish": publish_report}
        )
    for name, what in {
        "nothing": "2 workers, shards that do nothing",
        "kept": "2 workers, shards whose features are kept",
        "score": "2 workers, scoring, for each shard",
        "publish": "publishing, for each shard",
    }.items():
        record(what, "ms", ours=milliseconds(taken[name]), limit=SHARD_LIMIT)
    record("2 workers, a shard that is kept, beside one that does nothing", "ms", ours=milliseconds(
        taken["kept"]), rival=milliseconds(taken["nothing"]), bound=0.1)  # fmt: skip


@pytest.mark.benchmark
def test_overhead_of_a_shard_in_one_process(cells: str, fitted: Settings, record: Record) -> None:
    threads = torch.get_num_threads()
    settle_worker()
    taken: dict[str, list[float]] = {"new": [], "kept": [], "image": []}
    for number in range(-1, ROUNDS):
        new = tiny(fitted, cells, f"alone{number}")
        network = load_inference(new.store, new.card)
        uris = read_manifest(new.store, new.batch)["uri"].to_pylist()

        def images(night: Night = new, uris: list[str] = uris, net: Inference = network) -> None:
            for uri in uris:
                extract(net, [whole_file(uri)], tap_widths=night.card.tap_widths)

        for name, seconds in in_turn(1, {"new": new.run, "kept": new.run, "image": images}).items():
            if number >= 0:  # the first round loads the model and the detector
                taken[name] += milliseconds(seconds)
    torch.set_num_threads(threads)
    beside = [a - b for a, b in zip(taken["new"], taken["image"], strict=True)]
    record("1 process, shard of one new image, beside that image alone", "ms", ours=taken["new"],
           rival=taken["image"], bound=0.1)  # fmt: skip
    record("1 process, new shard beside its image", "ms", ours=beside, limit=SHARD_LIMIT)
    record("1 process, shard that is kept, beside a new one", "ms", ours=taken["kept"],
           rival=taken["new"], limit=SHARD_LIMIT, bound=1.0)  # fmt: skip


IMPORTS = "import flows.smears.night, flows.cluster.kinds"  # the second imports Dask, for workers
# One image is one shard, for one of the workers.
WORKER = f"""
{IMPORTS}
from flows.cluster.client import open_client
from flows.settings import Settings
with open_client(Settings(workers=2)) as client:
    client.submit(exec, 'import flows.jobs.shard').result()"""


@pytest.mark.benchmark
def test_fixed_overhead_of_a_flow(fitted: Settings, tmp_path: Path, record: Record) -> None:
    write_cells(tmp_path / "cells", 1, 1, seed=9, parasitized=0.0)
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    number = iter(range(100))

    def run(*arguments: str) -> str:
        done = python(*arguments, env=environment, cwd=tmp_path)
        return done.stdout

    def screen() -> None:
        batch = ("--batch", f"one-{next(number)}", "--store", fitted.store, "--workers", "2")
        run("-m", "flows.commands.main", "screen", "--images", str(tmp_path / "cells"), *batch)

    taken = in_turn(
        FLOW_ROUNDS,
        {
            "imports": lambda: run("-c", IMPORTS),
            "worker": lambda: run("-c", WORKER),
            "screen": screen,
        },
    )

    beyond = [a - b for a, b in zip(taken["screen"], taken["imports"], strict=True)]
    record("screen of one image, beside no more than its workers", "s", ours=taken["screen"],
           rival=taken["worker"], bound=0.2)  # fmt: skip
    record("fixed, beyond the imports", "s", ours=beyond, limit=FLOW_LIMIT)
