"""Work on a cluster whose workers die, as scripted, in the manner of cubed's executor tests."""

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self
from weakref import WeakSet

import pytest
from distributed import Client, LocalCluster

from flows.cluster import executor as module
from flows.cluster import trials
from flows.cluster.client import open_client
from flows.cluster.executor import kills_workers, run_jobs
from flows.cluster.trials import ClusterError
from flows.settings import Settings
from tests.support.waiting import until

KILL, BUSY, WRONG = "kill", "storage busy", "wrong"


@dataclass(frozen=True)
class Job:
    """A job and what happens at each of its runs; after the script's end all is well."""

    number: int
    log: str
    script: tuple[str, ...] = ()
    poisonous: bool = False
    tries: int = 1


@dataclass(frozen=True)
class Rows(Job):
    """A job of some rows, of which the guilty kill the worker unless they are in quarantine."""

    guilty: tuple[int, ...] = ()

    def rows(self) -> int:
        return 3

    def probe(self, row: int) -> None:
        (Path(self.log) / f"probed-{self.number}-{row}").touch()
        if row in self.guilty:
            os.kill(os.getpid(), signal.SIGKILL)

    def quarantine(self, rows: list[int]) -> "Rows":
        left = tuple(row for row in self.guilty if row not in rows)
        return replace(self, guilty=left, poisonous=bool(left) or not rows)


def work(job: Job) -> int:
    runs = Path(job.log) / str(job.number)
    runs.mkdir(exist_ok=True)
    run = len(list(runs.iterdir()))
    (runs / str(run)).touch()
    fate = KILL if job.poisonous else job.script[run] if run < len(job.script) else ""
    if fate == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == BUSY:
        raise ConnectionResetError("storage hung up")
    if fate == WRONG:
        raise ValueError("this is a mistake of ours")
    return job.number * job.number


def runs_of(log: Path, number: int) -> int:
    return len(list((log / str(number)).iterdir()))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with open_client(Settings(workers=2)) as client:
        yield client


def run(
    client: Client, log: Path, scripts: dict[int, tuple[str, ...]], jobs: int = 12
) -> list[int]:
    made = [Job(i, str(log), scripts.get(i, ())) for i in range(jobs)]
    return list(run_jobs(client, work, made, title="test"))


def test_results_come_in_order_and_each_job_runs_once(client: Client, tmp_path: Path) -> None:
    assert run(client, tmp_path, {}) == [i * i for i in range(12)]
    assert {runs_of(tmp_path, i) for i in range(12)} == {1}


@pytest.mark.parametrize("deaths", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_survives_the_death_of_its_workers(
    client: Client, tmp_path: Path, deaths: int
) -> None:
    jobs, in_flight = 40, 4 * 2
    done = run(client, tmp_path, {4: (KILL,) * deaths}, jobs)
    assert done == [i * i for i in range(jobs)]
    assert runs_of(tmp_path, 4) == deaths + 1
    # A worker takes with it what it was doing and the results that it still had.
    again = sum(runs_of(tmp_path, i) - 1 for i in range(jobs) if i != 4)
    assert again <= (in_flight - 1) * deaths


def test_what_kills_its_worker_always_is_isolated_and_nobody_else_is_blamed(
    client: Client, tmp_path: Path
) -> None:
    jobs: list[Job] = [Job(i, str(tmp_path)) for i in range(12)]
    jobs[5] = Rows(5, str(tmp_path), poisonous=True, guilty=(1,))
    tried: list[int] = []

    def again(job: Job) -> Job:
        tried.append(job.number)
        return replace(job, tries=job.tries + 1)

    results = run_jobs(client, work, jobs, title="test", again=again)
    assert list(results) == [i * i for i in range(12)]
    assert tried.count(5) == 3
    assert runs_of(tmp_path, 5) == 4
    probed = sorted(path.name for path in tmp_path.glob("probed-*"))
    assert probed == ["probed-5-0", "probed-5-1", "probed-5-2"]


def test_what_cannot_be_isolated_is_named(client: Client, tmp_path: Path) -> None:
    jobs = [Job(i, str(tmp_path), poisonous=i == 1) for i in range(3)]
    with pytest.raises(ClusterError, match="kills every worker"):
        list(run_jobs(client, work, jobs, title="test"))
    jobs = [Rows(7, str(tmp_path), poisonous=True)]
    with pytest.raises(ClusterError, match="memory"):
        list(run_jobs(client, work, jobs, title="test"))


def test_passing_storage_errors_are_tried_again(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "BACKOFF", (0.01, 0.01, 0.01))
    assert run(client, tmp_path, {2: (BUSY, BUSY, BUSY)}) == [i * i for i in range(12)]
    assert runs_of(tmp_path, 2) == 4
    with pytest.raises(ClusterError, match="ConnectionResetError"):
        run(client, tmp_path, {3: (BUSY,) * 9})


def test_jobs_and_results_travel_many_at_once(client: Client, tmp_path: Path) -> None:
    sent: list[int] = []
    fetched: list[int] = []

    def noted(into: list[int], honest: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            into.append(len(arguments[place]))
            return honest(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "map", noted(sent, client.map, 1))
        patch.setattr(client, "gather", noted(fetched, client.gather, 0))
        results = run_jobs(client, work, [Job(i, str(tmp_path)) for i in range(24)], title="t")
        assert next(results) == 0
        until(lambda: all(each.status != "pending" for each in client.futures.values()))
        assert list(results) == [i * i for i in range(1, 24)]
    assert sum(sent) == 24
    assert min(sent) > 1
    assert max(fetched) >= 6


def test_a_result_that_is_lost_with_others_is_waited_for(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(client, "gather", lost)
    results = run_jobs(client, work, [Job(i, str(tmp_path)) for i in range(8)], title="test")
    assert next(results) == 0
    time.sleep(0.5)
    assert list(results) == [i * i for i in range(1, 8)]
    assert {runs_of(tmp_path, i) for i in range(8)} == {1}


class Counted:
    """A job that knows how many of its kind this process has, unpickled ones included."""

    alive: ClassVar[WeakSet["Counted"]] = WeakSet()

    def __new__(cls) -> Self:
        made = super().__new__(cls)
        cls.alive.add(made)
        return made


def test_nothing_keeps_a_job_that_is_done() -> None:
    """A scheduler of Dask keeps a thousand for each worker by default."""
    with open_client(Settings(workers=1)) as client:
        results = run_jobs(client, id, (Counted() for _ in range(40)), title="counted")
        for _ in range(30):
            next(results)
        # Four are in flight, here and at the scheduler, and one was just taken. It forgets later.
        until(lambda: gc.collect() >= 0 and len(Counted.alive) <= 10)
        assert len(list(results)) == 10


def test_more_jobs_are_in_flight_when_more_workers_have_come(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Kubernetes and SLURM the first worker is there long before the last."""
    monkeypatch.setattr(module, "COUNTED_EVERY", 0.0)
    workers = iter([1, 2, *[10] * 200])
    monkeypatch.setattr(client, "nthreads", lambda: dict.fromkeys(range(next(workers)), 1))
    taken: list[int] = []

    def jobs() -> Iterator[Job]:
        for i in range(60):
            taken.append(i)
            yield Job(i, str(tmp_path))

    results = run_jobs(client, work, jobs(), title="test")
    seen = [(next(results), len(taken))[1] for _ in range(3)]
    assert seen == [1 + 8, 2 + 40, 2 + 40]
    assert len(list(results)) == 57


def test_a_job_is_not_done_by_a_worker_with_other_versions(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it has joined."""
    here = module.installed()
    monkeypatch.setattr(module, "installed", lambda: here | {"torch": "0.1"})
    with pytest.raises(ClusterError, match=r"torch is 0\.1 here but .*the same versions.*kept"):
        run(client, tmp_path, {}, jobs=1)
    assert not list(tmp_path.iterdir())


def test_only_what_kills_alone_is_a_killer(client: Client, tmp_path: Path) -> None:
    assert kills_workers(client, work, Job(0, str(tmp_path), poisonous=True))
    assert not kills_workers(client, work, Job(1, str(tmp_path), (KILL,)))
    assert not kills_workers(client, work, Job(2, str(tmp_path), (WRONG,) * 3))


def test_a_lost_scheduler_is_a_clear_error(tmp_path: Path) -> None:
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    client = Client(cluster.scheduler_address, set_as_default=False)
    results = run_jobs(client, work, [Job(i, str(tmp_path)) for i in range(50)], title="test")
    assert next(results) == 0
    cluster.close()
    with pytest.raises(ClusterError, match=r"scheduler is lost.*run the same"):
        list(results)
    client.close(timeout=1)
