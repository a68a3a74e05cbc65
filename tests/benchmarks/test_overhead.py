"""Measure the cost of a shard beside its images, and of a flow beside its shards."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from flows.cluster.client import open_client
from flows.cluster.executor import run_in_order
from flows.jobs.networks import load_inference
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import ShardJob, run_shard
from flows.jobs.worker import settle_worker
from flows.settings import Settings
from flows.stages import scoring
from flows.stages.batch import run_shards
from flows.stages.publish import publish
from storage.batches.features import create_features
from storage.batches.manifests import Batch, Shard, read_manifest
from storage.models.classifiers import ModelCard, load_card
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.images.decoding import DECODING
from tasks.images.listing import list_images
from tasks.network.extraction import extract
from tests.support.images import whole_file, write_cells
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.processes import python
from tests.support.screening import freeze

SHARDS, ROUNDS, FLOW_ROUNDS = (50, 2, 1) if QUICK else (200, 3, 3)
SHARD_LIMIT, FLOW_LIMIT = 10.0, 3.0  # milliseconds, seconds


def nothing(job: ShardJob) -> Shard:
    return job.shard


@dataclass(frozen=True)
class Tiny:
    """A batch of shards of one image each."""

    settings: Settings
    store: Store
    batch: Batch
    jobs: list[ShardJob]


@pytest.fixture(scope="module")
def tiny(cells: str, fitted: Settings) -> Tiny:
    settings = fitted.model_copy(update={"shard_rows": 1})
    return make_tiny(settings, cells, "tiny")


def make_tiny(settings: Settings, cells: str, name: str) -> Tiny:
    store = Store(settings.store)
    batch = freeze(settings, list_images(cells, limit=SHARDS), name)
    card = load_card(store, load_detector_card(store).model)
    jobs = [ShardJob(store, batch, shard, card) for shard in batch.shards()]
    return Tiny(settings, store, batch, jobs)


def allot_features(tiny: Tiny, card: ModelCard) -> None:
    create_features(
        tiny.store,
        card.name,
        tiny.batch,
        tap_widths=card.tap_widths,
        classes=card.classes,
        digest=card.digest,
        decoding=DECODING,
    )


def milliseconds(seconds: list[float]) -> list[float]:
    return [1000 * each / SHARDS for each in seconds]


@pytest.mark.benchmark
def test_overhead_of_a_shard_on_the_cluster(tiny: Tiny, record: Record) -> None:
    detector = load_detector_card(tiny.store)
    card = load_card(tiny.store, detector.model)
    of = Screened(tiny.store, tiny.batch, card, detector)

    with open_client(tiny.settings) as client:

        def shards() -> None:
            done = list(run_shards(client, tiny.store, tiny.batch, card, tiny.jobs, "tiny"))
            assert len(done) == SHARDS

        def idle() -> None:
            assert len(list(run_in_order(client, nothing, tiny.jobs, title="nothing"))) == SHARDS

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
    settings, store = fitted.model_copy(update={"shard_rows": 1}), Store(fitted.store)
    card = load_card(store, load_detector_card(store).model)
    network = load_inference(store, card)
    taken: dict[str, list[float]] = {"new": [], "kept": [], "image": []}
    for number in range(-1, ROUNDS):
        new = make_tiny(settings, cells, f"alone{number}")
        allot_features(new, card)
        uris = read_manifest(store, new.batch)["uri"].to_pylist()

        def shards(tiny: Tiny = new) -> None:
            for job in tiny.jobs:
                run_shard(job)

        def images(uris: list[str] = uris) -> None:
            for uri in uris:
                extract(network, [whole_file(uri)], tap_widths=card.tap_widths)

        for name, seconds in in_turn(1, {"new": shards, "kept": shards, "image": images}).items():
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
CLUSTER = f"""
{IMPORTS}
from flows.cluster.client import open_client
from flows.settings import Settings
with open_client(Settings(workers=2)) as client:
    pass"""
# One image is one shard, for one of the workers.
WORKER = CLUSTER.replace("pass", "client.submit(exec, 'import flows.jobs.shard').result()")

BACKLOG = f"""
{IMPORTS}
import sys, time
from flows.cluster.client import open_client
from flows.options.flows import Screen
from flows.settings import Settings
images, store, *batches = sys.argv[1:]

def backlog():
    settings = Settings(store=store, workers=2)
    with open_client(settings):
        for batch in batches:
            started = time.monotonic()
            flows.smears.night.screen.fn(Screen(images=images, batch=batch), settings)
            print("seconds", time.monotonic() - started)

backlog()"""


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
        options = {
            "images": str(tmp_path / "cells"),
            "batch": f"one-{next(number)}",
            "store": fitted.store,
            "workers": "2",
        }
        words = (f"--{name}={value}" for name, value in options.items())
        run("-m", "flows.commands.main", "screen", *words)

    taken = in_turn(
        FLOW_ROUNDS,
        {
            "imports": lambda: run("-c", IMPORTS),
            "cluster": lambda: run("-c", CLUSTER),
            "worker": lambda: run("-c", WORKER),
            "screen": screen,
        },
    )

    def beyond(longer: str, shorter: str) -> list[float]:
        return [a - b for a, b in zip(taken[longer], taken[shorter], strict=True)]

    record("fixed, beyond the imports", "s", ours=beyond("screen", "imports"), limit=FLOW_LIMIT)
    fixed = [
        a - b for a, b in zip(beyond("screen", "imports"), beyond("worker", "cluster"), strict=True)
    ]
    record("fixed, beyond the worker's imports too", "s", ours=fixed, limit=FLOW_LIMIT)

    batches = [f"of-several-{next(number)}" for _ in range(FLOW_ROUNDS + 1)]
    said = run("-c", BACKLOG, str(tmp_path / "cells"), fitted.store, *batches)
    first, *others = [float(s.split()[1]) for s in said.splitlines() if s.startswith("seconds")]
    record("another batch of one image in the same flow", "s", ours=others, rival=[
        first] * FLOW_ROUNDS, bound=1.0)  # fmt: skip
