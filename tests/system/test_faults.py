"""Faults thrown at a night: poisonous images, dying workers and coordinators, two runs.

After each the same command is given again, and the report must be that of an undisturbed night.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import psutil
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster, WorkerPlugin

from flows.cluster.kinds import STARTED
from flows.fit import FitOutcome, fit
from flows.jobs.fitting import fitted_rows
from flows.jobs.shard import run_shard
from flows.options.flows import Fit, Screen
from flows.settings import Settings
from flows.smears.night import screen
from storage.batches.ledger import read_shard_record
from storage.batches.manifests import load_batch
from storage.models.statistics import latest_statistics
from storage.store import Store
from tests.support.fitted import copied
from tests.support.images import write_cells
from tests.support.reports import comparable

POISON = b"this image kills whoever decodes it"
PAGE_POISON = b"this image kills whoever looks at it again"
SHARD = 8


class Poison(WorkerPlugin):
    """Makes a marked image kill the process that decodes it, as a broken decoder may."""

    name = "poison"

    def setup(self, worker: object) -> None:
        from tasks.images import decoding

        honest = decoding.decode

        def decode(content: bytes, *arguments: Any) -> object:
            if content.endswith(POISON):
                os.kill(os.getpid(), signal.SIGKILL)
            return honest(content, *arguments)

        decoding.decode = decode  # type: ignore[assignment]
        whole = decoding.decode_rgb

        def decode_rgb(content: bytes, **options: bool) -> object:
            if content.endswith(PAGE_POISON):
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(content, **options)

        decoding.decode_rgb = decode_rgb  # type: ignore[assignment]


@pytest.fixture(scope="module")
def poisonable() -> Iterator[str]:
    # One that a coordinator in a process of its own can reach, and so without a key of this one's.
    with (
        dask.config.set(STARTED),
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(Poison())
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def prepared(
    poisonable: str, fitted: tuple[Settings, FitOutcome], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of a store with a model and a detector, and beside it a night of 60 cells."""
    root = tmp_path_factory.mktemp("prepared")
    write_cells(root / "night", 5, 12, seed=51, first=51)
    return copied(fitted[0], root / "store", scheduler=poisonable, shard_rows=SHARD)


@pytest.fixture
def night(prepared: Settings, tmp_path: Path) -> tuple[Settings, Path]:
    """A store and a night of one's own."""
    shutil.copytree(Path(prepared.store).parent / "night", tmp_path / "night")
    return copied(prepared, tmp_path / "store"), tmp_path / "night"


@pytest.fixture(scope="module")
def undisturbed(prepared: Settings, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The report of the night when nothing goes wrong."""
    settings = copied(prepared, tmp_path_factory.mktemp("undisturbed") / "store")
    outcome = screen.fn(
        Screen(images=str(Path(prepared.store).parent / "night"), batch="night"), settings
    )
    return comparable(outcome.report)


# --- images and workers


@pytest.mark.slow
def test_a_poisonous_image_is_quarantined_and_all_others_are_scored(
    night: tuple[Settings, Path], undisturbed: pa.Table
) -> None:
    settings, images = night
    poisonous = sorted(images.rglob("*.png"))[17]
    with poisonous.open("ab") as file:
        file.write(POISON)
    outcome = screen.fn(Screen(images=str(images), batch="night"), settings)
    assert outcome.failures == {"killed_worker": 1}
    rows = comparable(outcome.report).to_pylist()
    expected = undisturbed.to_pylist()
    assert len(rows) == len(expected)
    same = ("image_id", "uri", "diagnosis", "status", "verdict", "abnormal")
    for row, other in zip(rows, expected, strict=True):
        if row["uri"] == poisonous.name:
            assert row["failure"].startswith("killed_worker: ")
            assert row["verdict"] == "review"
        else:
            assert [row[name] for name in same] == [other[name] for name in same]
    store = Store(settings.store)
    batch = load_batch(store, "night")
    records = [read_shard_record(store, batch, "m", shard) for shard in batch.shards()]
    assert [record.tries for record in records if record and record.failures] == [4]


@pytest.mark.slow
def test_an_image_that_kills_whoever_looks_at_it_again_is_missing_from_the_page(
    night: tuple[Settings, Path], undisturbed: pa.Table
) -> None:
    """At its own size an image may need more memory than the worker has that scored it small."""
    settings, images = night
    rows = undisturbed.sort_by([("abnormality", "descending")]).to_pylist()
    (poisonous,) = images.rglob(rows[0]["uri"])
    with poisonous.open("ab") as file:
        file.write(PAGE_POISON)
    outcome = screen.fn(Screen(images=str(images), batch="night"), settings)
    assert outcome.scored == undisturbed.num_rows
    assert outcome.page_failure is None
    page = Path(outcome.page).read_text()
    assert "this image alone kills the worker that decodes it" in page
    assert page.count("data:image/webp") > 2


def test_a_killed_worker_costs_nothing_but_time(
    night: tuple[Settings, Path],
    undisturbed: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It dies with its shard done, and nobody told."""
    (settings, images), marker = night, tmp_path / "killed"
    dying = partial(_die_once, run_shard, str(marker))
    monkeypatch.setattr("flows.stages.batch.run_shard", dying)
    outcome = screen.fn(Screen(images=str(images), batch="night"), settings)
    assert marker.exists()
    assert comparable(outcome.report).equals(undisturbed)


@pytest.mark.slow
def test_a_worker_killed_while_a_fit_calibrates_changes_nothing(
    night: tuple[Settings, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, images = night
    calm = settings.model_copy(update={"store": str(tmp_path / "calm")})
    shutil.copytree(settings.store, calm.store)
    fit.fn(Fit(images=str(images), batch="more"), calm)
    marker = tmp_path / "killed"
    dying = partial(_die_once, fitted_rows.group_log_distances, str(marker))
    monkeypatch.setattr(fitted_rows, "group_log_distances", dying)
    fit.fn(Fit(images=str(images), batch="more"), settings)
    assert marker.exists()
    assert arrays_in(settings) == arrays_in(calm)


def _die_once(work: Callable[[Any], Any], marker: str, job: Any) -> Any:
    """Do the work, and the first time die with its result in hand."""
    done = work(job)
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return done


# --- the coordinator


def command(*words: object, shard_rows: int) -> subprocess.Popen[str]:
    """Start a command as an operator does."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    whole = [sys.executable, "-m", "flows.commands.main", *map(str, words)]
    given = os.environ | {"SLIDEWATCH_SHARD_ROWS": str(shard_rows)}
    return subprocess.Popen(whole, env=given, text=True, **pipes)


def arrays_in(settings: Settings) -> list[bytes]:
    """The moments and the detector that a second fit has made."""
    names = ("statistics/m/v0002/moments.safetensors", "detectors/m-v0002/detector.safetensors")
    return [Path(settings.store, name).read_bytes() for name in names]


@pytest.mark.slow
def test_two_fits_at_once_take_their_turn_and_neither_is_lost(
    night: tuple[Settings, Path], tmp_path: Path
) -> None:
    settings, images = night
    options = ["--store", settings.store, "--cluster", "scheduler"]
    options += ["--scheduler", settings.scheduler]
    halves = []
    for i, part in enumerate(("one", "two")):
        for path in sorted(images.rglob("*.png"))[i::2]:
            to = tmp_path / part / path.parent.name / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
        given = ("--images", tmp_path / part, "--batch", part, *options)
        halves.append(command("fit", *given, shard_rows=SHARD))
    for process in halves:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    latest = latest_statistics(Store(settings.store), "m")
    assert latest is not None
    assert latest.version == 3
    assert sorted(c.batch for c in latest.contributions) == ["first", "one", "two"]
    assert sum(latest.images.values()) == sum(c.images for c in latest.contributions)


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        signal.SIGKILL,
    ],
)
def test_a_stopped_run_ends_soon_and_leaves_nothing_behind(
    night: tuple[Settings, Path], undisturbed: pa.Table, tmp_path: Path, sign: signal.Signals
) -> None:
    """As an operator: the command line, its own local cluster."""
    settings, images = night
    many = tmp_path / "many"
    for i, path in enumerate(sorted(images.rglob("*.png")) * 40):
        to = many / f"{i}-{path.name}"
        to.parent.mkdir(exist_ok=True)
        os.link(path, to)
    options = ["--store", settings.store, "--workers", "1"]
    process = command("screen", "--images", many, "--batch", "many", *options, shard_rows=16)
    ledger = Path(settings.store) / "batches" / "many" / "ledger" / "m"
    while not (ledger.exists() and len(list(ledger.iterdir())) >= 3):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2  # the workers and their parent
    process.send_signal(sign)
    _, err = process.communicate(timeout=20)
    assert process.returncode not in (0, None)
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    if sign != signal.SIGKILL:
        assert "run the same command again" in err
        assert not list((Path(settings.store) / ".staged").iterdir())
    done = json.loads((ledger / "000000.json").read_text())
    assert done["scored"] == 16
