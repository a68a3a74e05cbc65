"""A night of made-up scored parts whose workers are simulated; the coordinator's work is real.

``python -m tests.support.simulated_night STORE WORKERS`` runs a night that `prepare` made, from the
first read to its page, and prints as JSON what it took. Extraction sleeps for a time per cell, and
every other job for the CPU time that it took in `prepare`.
"""

import gc
import json
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from distributed import Client
from PIL import Image
from threadpoolctl import threadpool_limits

from flows.cluster.executor import run_jobs
from flows.cluster.here import Here
from flows.jobs.scoring import finish, scores
from flows.jobs.scoring.plan import Part, parts_of
from flows.jobs.scoring.screened import Screened
from flows.jobs.shard import ShardJob, ShardResult, run_shard
from flows.monitoring import telemetry
from flows.smears.jobs import drawings, grouped_rows, shown
from flows.smears.stages.calling import call_batch
from flows.smears.stages.written_pages import write_page
from flows.stages.batch import prepare_features
from flows.stages.publish import publish
from flows.stages.scoring import extract, score
from storage.batches import ledger
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.parquet import ROWS, groups_of, read_table, write_parts, write_table
from storage.store import Store
from tasks.images.manifest import SCHEMA
from tests.support import made_up_night, sleepers
from tests.support.peak import peak, start_peak
from tests.support.screening import freeze

A_SLIDE, A_PATIENT = 100, 200  # cells
CELL = 0.001  # seconds to extract one
RECORDED, NIGHT = "recorded", "night.pickle"
_ONE_AT_A_TIME = Lock()  # threads that read at once take turns in Python, and all wait for all
# Where a stage looks up the jobs that are recorded, and then replayed.
JOBS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("flows.stages.publish.finish_parts", finish.finish_parts),
    ("flows.smears.stages.calling.group_piece", grouped_rows.group_piece),
    ("flows.smears.stages.drawn_pages.find_shown", shown.find_shown),
    ("flows.smears.jobs.drawings.draw", drawings.draw),
)


def prepare(store: Store, cells: Path, images: int) -> None:
    """Make a night of scored parts, and record what the jobs after them return and take."""
    settings = made_up_night.prepare(store, cells)
    detector = load_detector_card(store)
    batch = freeze(settings, _manifest(0, images), "night")
    screened = Screened(store, batch, load_card(store, detector.model), detector)
    with threadpool_limits(1):  # as on a worker
        seconds = _scored(screened, parts_of(screened))
    image = Image.open(next(cells.rglob("*.png"))).convert("RGB")
    found = SimpleNamespace(image=lambda: image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.smears.jobs.drawings.find_unchanged", lambda *_: found)
        patch.setattr("storage.batches.ledger.discard_scores", lambda *_: None)
        for name, work in JOBS:
            patch.setattr(name, partial(_record, work, store.root))
        here = cast(Client, Here())
        seal = publish(here, screened, score(here, screened))
        write_page(here, screened, settings, seal, call_batch(here, screened, settings, seal))
    # The night is published once more, as if for the first time.
    store.remove("reports")
    for folder in ("sealed", "called", "slides"):
        store.remove("batches", batch.key, folder)
    Path(store.root, NIGHT).write_bytes(pickle.dumps((screened, settings, seconds, seal)))


def _manifest(start: int, stop: int) -> pa.Table:
    rows = np.arange(start, stop)
    columns = {
        "uri": [f"file:///night/{row:09}.png" for row in rows.tolist()],
        "slide_id": [f"slide-{row:07}" for row in (rows // A_SLIDE).tolist()],
        "patient_id": [f"patient-{row:07}" for row in (rows // A_PATIENT).tolist()],
    }
    made = [
        pa.array(columns[each.name]) if each.name in columns else pa.nulls(len(rows), each.type)
        for each in SCHEMA
    ]
    return pa.table(made, schema=SCHEMA)


def _scored(screened: Screened, parts: list[Part]) -> float:
    """Score the first part, write it under the names of every other one; return its seconds."""
    store, batch, key = screened.store, screened.batch, screened.key
    prepare_features(store, batch, screened.model)
    with pytest.MonkeyPatch.context() as patch:
        bank = made_up_night._Bank(store.url)
        patch.setattr("flows.jobs.shard.extract", bank.extract)
        patch.setattr("flows.jobs.shard._network", lambda _: None)
        for shard in batch.shards():
            if shard.start < parts[0].rows.stop:
                run_shard(ShardJob(store, batch, shard, screened.model))
    begun = ledger.screening_start(store, batch, key)
    job = scores.ScoreJob(screened, parts[0], begun)
    scores.score_part(job)  # the first call loads the detector
    ledger.discard_scores(store, batch, key)
    started = time.process_time()
    scores.score_part(job)
    seconds = time.process_time() - started
    rows = read_table(store, *ledger.scores_path(batch, key, parts[0].rows))
    shifts = read_table(store, *ledger.shifts_path(batch, key, parts[0].rows))
    rng = np.random.default_rng(0)
    for part in parts:
        start, stop = part.rows.start, part.rows.stop
        named = _manifest(start, stop).select(["uri", "slide_id", "patient_id"])
        digests = rng.bytes(32 * (stop - start)).hex()
        ids = [digests[i : i + 64] for i in range(0, len(digests), 64)]
        some = rows.slice(0, stop - start)
        for name in some.column_names:
            column = some[name]
            if name in named.column_names:
                column = named[name]
            elif name == "image_id":
                column = pa.array(ids)
            elif pa.types.is_floating(column.type) and not name.endswith("p_value"):
                noise = pa.array(1 + 1e-4 * rng.standard_normal(len(column)), column.type)
                column = pa.compute.multiply(column, noise)
            some = some.set_column(some.column_names.index(name), name, column)
        path = ledger.scores_path(batch, key, part.rows)
        write_parts(store, some.schema, groups_of([some], ROWS), *path)
        those = shifts.slice(0, len(part.slides)).to_pylist()
        for row, slide in zip(those, part.slides, strict=True):
            row |= {"slide_id": slide.slide, "patient_id": slide.patient}
        table = pa.Table.from_pylist(those, shifts.schema)
        write_table(store, table, *ledger.shifts_path(batch, key, part.rows))
    return seconds / len(rows)


def _name_of(work: Callable[[Any], Any], job: Any) -> str:
    """Name what was recorded of a job, by its first part, row group or image."""
    if isinstance(job, drawings.DrawingJob):
        number = int(Path(job.items[0][0].uri).stem)
    else:
        first = job.rows if isinstance(job, grouped_rows.GroupingJob) else None
        number = job.group if isinstance(job, shown.ShownJob) else (first or job.parts[0]).start
    return f"{work.__name__}-{number}.pickle"


def _record(work: Callable[[Any], Any], root: str, job: Any) -> Any:
    started = time.process_time()
    result = work(job)
    seconds = time.process_time() - started
    path = Path(root, RECORDED, _name_of(work, job))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps((seconds, result)))
    return result


@cache
def recorded(root: str) -> dict[str, tuple[float, Any]]:
    """Read what jobs took and returned, by name; once, for all workers of a process."""
    paths = Path(root, RECORDED).iterdir()
    return {path.name: pickle.loads(path.read_bytes()) for path in paths}


def replay(work: Callable[[Any], Any], root: str, job: Any) -> Any:
    """Sleep for as long as a recorded job took, and return what it returned."""
    seconds, result = recorded(root)[_name_of(work, job)]
    time.sleep(seconds)
    return result


def scored(
    cell: float, work: Callable[[scores.ScoreJob], scores.Surveyed], job: scores.ScoreJob
) -> scores.Surveyed:
    """Sleep ``cell`` seconds a cell instead of scoring a part, which is only read."""
    started = time.monotonic()
    with _ONE_AT_A_TIME:
        found = work(job)
    time.sleep(max(0.0, started + len(job.part.rows) * cell - time.monotonic()))
    return found


def extracted(job: ShardJob) -> ShardResult:
    """Sleep instead of extracting a shard."""
    seconds = (job.shard.stop - job.shard.start) * CELL
    time.sleep(seconds)
    return ShardResult(job.shard, (), False, 1, seconds, "simulated")


def read_recorded(root: str) -> None:
    """Let a worker read what was recorded before the night begins."""
    recorded(root)


@contextmanager
def _simulated(root: str, cell: float) -> Iterator[None]:
    """Let the stages sleep instead of working."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.stages.batch.run_shard", extracted)
        patch.setattr(scores, "score_part", partial(scored, cell, scores.score_part))
        for name, work in JOBS:
            patch.setattr(name, partial(replay, work, root))
        yield


def run(root: str, workers: int) -> None:
    screened, settings, cell, seal = pickle.loads(Path(root, NIGHT).read_bytes())
    with sleepers.opened(workers, 1) as client, _simulated(root, cell):
        client.run(read_recorded, root)
        naps = sleepers.naps(sleepers.WARM_UP, CELL)
        list(run_jobs(client, sleepers.sleep, naps, title="warm-up"))
        gc.freeze()  # as a command does
        start_peak()
        started, stages = time.perf_counter(), dict[str, float]()

        def staged(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
            begun, cpu = time.perf_counter(), time.process_time()
            with telemetry.stage(name):
                result = work(*arguments)
            stages[name] = time.perf_counter() - begun
            stages[f"{name}, CPU of the coordinator"] = time.process_time() - cpu
            return result

        staged("extract", extract, client, screened)
        parts = staged("score", score, client, screened)
        again = staged("publish", publish, client, screened, parts)
        called = staged("call", call_batch, client, screened, settings, again)
        staged("page", write_page, client, screened, settings, again, called)
        whole = time.perf_counter() - started
    assert again == seal
    jobs = sum(seconds for seconds, _ in recorded(root).values())
    work = screened.batch.rows * (CELL + cell) + jobs
    seconds = {"all": whole, "all jobs that were recorded": jobs, **stages}
    print(json.dumps({"seconds": seconds, "busy": work / workers / whole, "peak": peak()}))


if __name__ == "__main__":
    from tests.support import simulated_night  # as workers import the jobs

    simulated_night.run(sys.argv[1], int(sys.argv[2]))
