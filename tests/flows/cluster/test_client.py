"""Opening each kind of cluster; those that cannot run here are stood in for by local ones."""

import inspect
import logging
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import psutil
import pytest
from distributed import KilledWorker, LocalCluster
from distributed.security import Security

from flows.cluster import client as module
from flows.cluster import kinds
from flows.cluster.client import open_client
from flows.cluster.executor import run_in_order
from flows.cluster.trials import ClusterError
from flows.jobs import libraries
from flows.settings import Settings
from tests.support.certificates import make_certificates
from tests.support.needs import needs
from tests.support.strangers import knock

ANOTHER = "tcp://10.0.0.1:8786"


class Double(LocalCluster):
    """A cluster in this process that remembers what it was asked for."""

    asked: dict[str, Any]
    open = 0

    def __init__(self, *, workers: int = 0, **asked: Any) -> None:
        type(self).asked = asked | {"allowed": _allowed_failures()}
        super().__init__(n_workers=workers, processes=False, dashboard_address=None)
        type(self).open += 1

    def close(self, timeout: float | None = None) -> Any:
        if self.status.name == "running":
            type(self).open -= 1
        return super().close(timeout)


def _allowed_failures() -> int:
    return int(dask.config.get("distributed.scheduler.allowed-failures"))


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., type[Double]]]:
    """Puts a `Double` where a package that makes clusters would be imported."""
    made: list[type[Double]] = []

    def put(package: str, name: str, **defaults: Any) -> type[Double]:
        class Own(Double):
            def __init__(self, **asked: Any) -> None:
                super().__init__(**defaults, **asked)

        made.append(Own)
        monkeypatch.setitem(sys.modules, package, SimpleNamespace(**{name: Own}))
        return Own

    yield put
    assert [each.open for each in made] == [0] * len(made)


def squares(settings: Settings) -> list[int]:
    with open_client(settings) as client:
        return list(run_in_order(client, _square, range(5), title="squares"))


def _square(number: int) -> int:
    return number * number


# --- a scheduler


@pytest.mark.parametrize("address", [ANOTHER, "tcp://scheduler.example:8786", "ws://10.0.0.1:1"])
def test_an_unencrypted_scheduler_elsewhere_is_refused(address: str) -> None:
    settings = Settings(cluster="scheduler", scheduler=address)
    with pytest.raises(ClusterError, match="can run any code"), open_client(settings):
        pass


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tls_key": None}, "TLS needs all of tls_ca, tls_certificate, tls_key"),
        ({"tls_ca": "no/such.pem"}, "no/such.pem cannot be read; deploy/certificates.md makes"),
        ({"tls_key": "worker-key.pem"}, "are not an authority, a certificate and the key"),
        ({"tls_certificate": "client-key.pem"}, "are not an authority, a certificate and the key"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "there are certificates, but tcp://127.0.0.1:1 is"),
        ({"tls_ca": None, "tls_certificate": None, "tls_key": None}, "needs certificates"),
    ],
)
def test_certificates_that_cannot_serve_are_named_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(make_certificates(tmp_path))
    well = {"tls_ca": "ca.pem", "tls_certificate": "client.pem", "tls_key": "client-key.pem"}
    made = {"cluster": "scheduler", "scheduler": "tls://127.0.0.1:1"} | well | change
    with pytest.raises(ClusterError, match=says), open_client(Settings(**made)):  # type: ignore[arg-type]
        pass


def test_other_versions_are_refused_with_who_has_them(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(cluster="scheduler", scheduler=scheduler)
    here, odd = libraries.installed(), {"dask": "1.1", "pillow": "1.0"}
    with open_client(settings) as client:
        monkeypatch.setattr(module, "installed", lambda: here | odd)
        with pytest.raises(ClusterError, match="install the same versions") as error:
            module.check_versions(client)
    workers = r"tcp://127\.0\.0\.1:\d+, tcp://127\.0\.0\.1:\d+"
    assert re.search(f"dask is 1.1 here but {here['dask']} on {workers}, the sch", str(error.value))
    assert re.search(f"pillow is 1.0 here but {here['pillow']} on {workers}:", str(error.value))


def test_the_log_says_where_dask_shows_the_work(
    scheduler: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, logger="slidewatch"),
        open_client(Settings(cluster="scheduler", scheduler=scheduler)),
    ):
        (said,) = [each.getMessage() for each in caplog.records if each.name == "slidewatch"]
    assert re.fullmatch(r"Dask shows the work at http://127\.0\.0\.1:\d+/status", said)


# --- GPUs


def test_cuda_has_a_worker_for_each_gpu_and_listens_on_this_machine_alone(
    double: Callable[..., type[Double]],
) -> None:
    """No GPU is here: what is shown is what LocalCUDACluster is asked for, and that work runs."""
    cluster = double("dask_cuda", "LocalCUDACluster", workers=1)
    assert squares(Settings(cluster="cuda", workers=7)) == [0, 1, 4, 9, 16]
    assert "n_workers" not in cluster.asked  # each GPU that CUDA_VISIBLE_DEVICES names
    assert cluster.asked["threads_per_worker"] == 1
    assert cluster.asked["host"] == "127.0.0.1"
    assert cluster.asked["dashboard_address"].startswith("127.0.0.1:")
    assert cluster.asked["allowed"] == 0


@pytest.mark.parametrize(
    ("kind", "package"),
    [("cuda", "dask_cuda"), ("kubernetes", "dask_kubernetes.operator"), ("slurm", "dask_jobqueue")],
)
def test_what_must_be_installed_is_said(
    kind: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cluster.yaml").touch()
    monkeypatch.setitem(sys.modules, package, None)
    settings = Settings(cluster=kind, cluster_spec=str(tmp_path / "cluster.yaml"), unencrypted=True)
    with pytest.raises(ClusterError, match=re.escape(f"pip install 'slidewatch[{kind}]'")):
        squares(settings)


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "daskcluster.yaml").write_text("metadata: {name: slidewatch}\n")
    return str(tmp_path / "daskcluster.yaml")


@pytest.mark.parametrize(
    ("kind", "cluster", "complaint", "says"),
    [
        ("cuda", "dask_cuda.LocalCUDACluster", "NVML Shared Library Not Found",
         r"no GPU can be used .*NVML.*cluster = local"),
        ("kubernetes", "dask_kubernetes.operator.KubeCluster", "is the Dask Operator running?",
         r"is the Dask Operator running.*kubectl describe"),
        ("local", "flows.cluster.kinds.LocalCluster", "Nanny failed to start.",
         r"Nanny failed to start\.\): .*MiB.*fewer --workers"),
    ],
)  # fmt: skip
def test_a_cluster_that_does_not_start_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, spec: str, kind: Any, cluster: str, complaint: str, says: str
) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError(complaint)

    package, _, name = cluster.rpartition(".")
    if kind == "local":
        monkeypatch.setattr(kinds, name, fails)
    else:
        monkeypatch.setitem(sys.modules, package, SimpleNamespace(**{name: fails}))
    with pytest.raises(ClusterError, match=says):
        squares(Settings(cluster=kind, cluster_spec=spec, unencrypted=True, workers=1))


# --- Kubernetes


def test_kubernetes_starts_the_cluster_of_the_file_and_scales_it(
    double: Callable[..., type[Double]], spec: str
) -> None:
    """No Kubernetes is here: what is shown is what KubeCluster is asked for, and that work runs."""
    cluster = double("dask_kubernetes.operator", "KubeCluster")
    settings = Settings(cluster="kubernetes", cluster_spec=spec, unencrypted=True, workers=2)
    with open_client(settings) as client:
        client.wait_for_workers(2, timeout=10)
        assert list(run_in_order(client, _square, range(5), title="squares")) == [0, 1, 4, 9, 16]
    del cluster.asked["allowed"]
    # Its progress goes to standard output unless it is quiet; an outcome in JSON is there.
    assert cluster.asked == {"custom_cluster_spec": spec, "quiet": True}


def test_the_kubernetes_of_dask_takes_what_it_is_asked_for() -> None:
    from dask_kubernetes import operator

    assert {"custom_cluster_spec", "quiet"} <= set(
        inspect.signature(operator.KubeCluster).parameters
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cluster_spec": None}, "set cluster_spec"),
        ({"cluster_spec": "no/such.yaml"}, "no/such.yaml does not exist"),
        ({"unencrypted": False}, "has no TLS.*can run any code.*NetworkPolicy"),
    ],
)
def test_a_kubernetes_cluster_that_is_not_described_or_open_to_all_is_refused(
    spec: str, change: dict[str, Any], says: str
) -> None:
    made = {"cluster": "kubernetes", "cluster_spec": spec, "unencrypted": True} | change
    with pytest.raises(ClusterError, match=says):
        squares(Settings(**made))


def test_workers_that_do_not_come_are_not_waited_for_for_ever(
    double: Callable[..., type[Double]], spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = double("dask_kubernetes.operator", "KubeCluster")
    monkeypatch.setattr(cluster, "scale", lambda self, workers: None)
    settings = Settings(cluster="kubernetes", cluster_spec=spec, unencrypted=True, first_worker=0.2)
    with pytest.raises(ClusterError, match=r"no worker has come in 0.2 seconds: see kubectl"):
        squares(settings)


# --- SLURM


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Path]:
    """Dask's configuration of SLURM jobs on this machine."""
    import dask_jobqueue  # noqa: F401, because it adds its defaults to the configuration

    job = {"cores": 1, "processes": 1, "memory": "1GB", "interface": "lo", "queue": "night"}
    job |= {"shared-temp-directory": str(tmp_path), "walltime": "01:00:00"}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in job.items()}):
        yield tmp_path


def sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program in front that is called sbatch."""
    (folder / "sbatch").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_workers_job_has_tls_though_nothing_says_so(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM shows a job's script to others, so keys must be named in it, and not stand there."""
    sbatch(slurm, monkeypatch, f'cat > {slurm}/script; echo "no such partition" >&2; exit 1')
    with pytest.raises(ClusterError, match=r"SLURM refuses .* no such partition"):
        squares(Settings(cluster="slurm"))
    script = (slurm / "script").read_text()
    assert "#SBATCH -p night" in script
    assert "#SBATCH --cpus-per-task=1" in script
    assert re.search(r"dask_worker tls://127\.0\.0\.1:\d+ .*--nthreads 1 ", script)
    assert re.search(rf"--tls-key {slurm}/\.dask-jobqueue\S+", script)
    assert "PRIVATE KEY" not in script


def test_keys_that_were_made_for_a_run_are_private_and_go_with_it(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = f"stat -c %a {slurm}/.dask-jobqueue.worker.key* > {slurm}/modes"
    sbatch(slurm, monkeypatch, f"{keys}; exit 1")
    with pytest.raises(ClusterError):
        squares(Settings(cluster="slurm"))
    assert int((slurm / "modes").read_text(), 8) == stat.S_IRUSR | stat.S_IWUSR
    assert not list(slurm.glob(".dask-jobqueue*"))


def test_the_workers_job_has_the_certificates_of_the_settings(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_certificates(slurm)
    sbatch(slurm, monkeypatch, f"cat > {slurm}/script; exit 1")
    pair = {"tls_certificate": f"{made}/scheduler.pem", "tls_key": f"{made}/scheduler-key.pem"}
    with pytest.raises(ClusterError, match="SLURM refuses"):
        squares(Settings(cluster="slurm", tls_ca=f"{made}/ca.pem", **pair))
    assert f"--tls-cert {made}/scheduler.pem" in (slurm / "script").read_text()


def test_slurm_that_cannot_start_jobs_says_why(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        dask.config.set({"jobqueue.slurm.cores": None}),
        pytest.raises(ClusterError, match=r"must specify how much cores.*DASK_CONFIG"),
    ):
        squares(Settings(cluster="slurm"))
    monkeypatch.setenv("PATH", str(slurm))
    with pytest.raises(ClusterError, match="no sbatch here"):
        squares(Settings(cluster="slurm"))


# --- one cluster for several flows


def opened(settings: Settings) -> str:
    with open_client(settings) as client:
        return str(client.scheduler.address)


def opened_twice(settings: Settings) -> list[str]:
    elsewhere = settings.model_copy(update={"store": "elsewhere"})
    with open_client(settings) as client:
        return [client.scheduler.address, opened(settings), opened(elsewhere)]


def test_flows_within_the_block_of_a_client_work_on_its_cluster(
    double: Callable[..., type[Double]], spec: str
) -> None:
    cluster = double("dask_kubernetes.operator", "KubeCluster")
    settings = Settings(cluster="kubernetes", cluster_spec=spec, unencrypted=True, workers=1)
    address, again, elsewhere = opened_twice(settings)
    assert address == again == elsewhere
    assert cluster.open == 0
    with open_client(settings) as client, open_client(Settings(workers=1)) as another:
        assert client.scheduler.address != another.scheduler.address
    assert opened(settings) != address


# --- this machine's own workers


def _listening() -> set[tuple[str, int]]:
    family = (psutil.Process(), *psutil.Process().children(recursive=True))
    sockets = [each for process in family for each in process.net_connections("tcp")]
    return {tuple(each.laddr) for each in sockets if each.status == psutil.CONN_LISTEN}


def test_nobody_else_on_this_machine_runs_code_on_the_workers() -> None:
    """Every account reaches loopback: only who has the key of this run is let in."""
    listening_before = _listening()
    with open_client(Settings(workers=1)) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        for stranger in (None, Security.temporary()):
            with pytest.raises((OSError, TypeError)):
                knock(address, stranger)
        with pytest.raises(OSError, match=r"."):
            knock(address.replace("tls", "tcp"))
        assert {address for address, _ in _listening() - listening_before} == {"127.0.0.1"}
        (folder,) = client.run(lambda dask_worker: dask_worker.local_directory).values()
        (private,) = [each for each in Path(folder).parents if each.name.startswith("slidewatch-")]
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not private.exists()


def _my_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))  # of the thread that a job has


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@needs("cores", hasattr(os, "sched_getaffinity"), "threads move freely here")
@pytest.mark.parametrize("more", [0, 1])
def test_each_local_worker_has_a_core_of_its_own_if_there_is_one_for_each(more: int) -> None:
    cores = _my_cores()
    with open_client(Settings(workers=len(cores) + more)) as client:

        def of_workers() -> list[list[int]]:
            client.wait_for_workers(len(cores) + more)
            workers = list(client.nthreads())
            jobs = [client.submit(_my_cores, workers=[who], pure=False) for who in workers]
            return sorted(client.gather(jobs))

        expected = [cores] * len(of_workers()) if more else [[core] for core in cores]
        assert of_workers() == expected
        killed, *_ = client.nthreads()
        with pytest.raises(KilledWorker):
            client.submit(_die, workers=[killed]).result()
        assert of_workers() == expected
