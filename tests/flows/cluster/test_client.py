"""Opening each kind of cluster; those that cannot run here are stood in for by local ones."""

import gc
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import psutil
import pytest
from distributed import LocalCluster
from distributed.security import Security

from flows.cluster import client as module
from flows.cluster import kinds
from flows.cluster.client import open_client
from flows.cluster.executor import run_jobs
from flows.cluster.trials import ClusterError
from flows.jobs import libraries
from flows.settings import Settings
from tests.support.certificates import make_certificates
from tests.support.strangers import knock

ANOTHER = "tcp://10.0.0.1:8786"
OF_A_CLASS = "cloud.Cluster"


class Double(LocalCluster):
    """A cluster in this process that remembers what it was asked for."""

    asked: dict[str, Any]
    open = 0
    encrypts = False

    def __init__(self, *, workers: int = 0, **asked: Any) -> None:
        allowed = dask.config.get("distributed.scheduler.allowed-failures")
        type(self).asked = asked | {"allowed": int(allowed)}
        print("starting")
        more = {"security": asked["security"], "protocol": "tls://"} if self.encrypts else {}
        super().__init__(n_workers=workers, processes=False, dashboard_address=None, **more)
        type(self).open += 1

    def close(self, timeout: float | None = None) -> Any:
        if self.status.name == "running":
            type(self).open -= 1
        return super().close(timeout)


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
        return list(run_jobs(client, _square, range(5), title="squares"))


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
        ({"ca-file": "no/such.pem"}, "TLS cannot be used .* deploy/certificates.md makes"),
        ({"client.key": "worker-key.pem"}, "TLS cannot be used .*key values mismatch"),
        ({"client.cert": "client-key.pem"}, "TLS cannot be used"),
        ({"client.cert": None}, "needs certificates: name certificates in distributed.comm.tls"),
    ],
)
def test_certificates_that_cannot_serve_are_named_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(make_certificates(tmp_path))
    well = {"ca-file": "ca.pem", "client.cert": "client.pem", "client.key": "client-key.pem"}
    settings = Settings(cluster="scheduler", scheduler="tls://127.0.0.1:1")
    named = {f"distributed.comm.tls.{name}": file for name, file in (well | change).items()}
    with dask.config.set(named), pytest.raises(ClusterError, match=says), open_client(settings):
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
    ("kind", "package"), [("cuda", "dask_cuda"), ("dask_jobqueue.SLURMCluster", "dask_jobqueue")]
)
def test_what_must_be_installed_is_said(
    kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ClusterError, match=rf"no {package}\.\w+ .*install its package"):
        squares(Settings(cluster=kind))


@pytest.mark.parametrize(
    ("kind", "cluster", "complaint", "says"),
    [
        ("cuda", "dask_cuda.LocalCUDACluster", "NVML Shared Library Not Found",
         r"no GPU can be used .*NVML.*cluster = local"),
        (OF_A_CLASS, OF_A_CLASS, "is the Dask Operator running?",
         r"cloud.Cluster does not start .*is the Dask Operator running.*Dask's configuration"),
        ("local", "flows.cluster.kinds.LocalCluster", "Nanny failed to start.",
         r"Nanny failed to start\.\): .*MiB.*fewer --workers"),
    ],
)  # fmt: skip
def test_a_cluster_that_does_not_start_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, kind: str, cluster: str, complaint: str, says: str
) -> None:
    class Fails(Double):
        def __init__(self, **_: object) -> None:
            raise RuntimeError(complaint)

    package, _, name = cluster.rpartition(".")
    if kind == "local":
        monkeypatch.setattr(kinds, name, Fails)
    else:
        monkeypatch.setitem(sys.modules, package, SimpleNamespace(**{name: Fails}))
    with pytest.raises(ClusterError, match=says):
        squares(Settings(cluster=kind, workers=1))


# --- a class of cluster


@pytest.mark.parametrize("unencrypted", [False, True])
def test_a_class_is_given_a_key_unless_its_network_is_ours_alone_and_is_scaled(
    double: Callable[..., type[Double]], unencrypted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = double("cloud", "Cluster")
    cluster.encrypts = not unencrypted
    settings = Settings(cluster=OF_A_CLASS, unencrypted=unencrypted, workers=2)
    with open_client(settings) as client:
        client.wait_for_workers(2, timeout=10)
        assert list(run_jobs(client, _square, range(5), title="squares")) == [0, 1, 4, 9, 16]
        assert client.scheduler.address.startswith("tls" if not unencrypted else "inproc")
    assert cluster.asked.keys() == {"allowed"} | ({"security"} if not unencrypted else set())
    assert cluster.asked["allowed"] == 0
    assert capsys.readouterr().out == ""  # a class may print; the outcome stands there


def test_a_class_that_takes_a_key_and_does_not_use_it_is_refused(
    double: Callable[..., type[Double]],
) -> None:
    double("cloud", "Cluster")
    with pytest.raises(ClusterError, match=r"cloud.Cluster is not encrypted.*any code"):
        squares(Settings(cluster=OF_A_CLASS))


def test_a_deployment_names_no_class_that_its_worker_does_not_use(
    double: Callable[..., type[Double]], monkeypatch: pytest.MonkeyPatch
) -> None:
    double("cloud", "Cluster", workers=1)
    monkeypatch.setattr(kinds, "in_deployment", lambda: True)
    settings = Settings(cluster=OF_A_CLASS, unencrypted=True)
    with pytest.raises(ClusterError, match=r"may not name cloud\.Cluster: name it in this worker"):
        squares(settings)
    monkeypatch.setenv("SLIDEWATCH_CLUSTER", OF_A_CLASS)
    assert squares(settings) == [0, 1, 4, 9, 16]


def test_what_is_no_cluster_is_not_called() -> None:
    with pytest.raises(ClusterError, match=r"os.system is not the class of a Dask cluster"):
        squares(Settings(cluster="os.system"))


def test_kubernetes_needs_the_word_that_its_network_is_ours_alone() -> None:
    """Dask's operator knows no TLS, and no Kubernetes is asked before that."""
    settings = Settings(cluster="dask_kubernetes.operator.KubeCluster")
    with pytest.raises(ClusterError, match=r"'security'.*can run any code.*set unencrypted"):
        squares(settings)


def test_jobs_of_slurm_have_tls_and_keys_that_are_private_and_go_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM shows a job's script to others, so keys must be named in it, and not stand there."""
    import dask_jobqueue  # noqa: F401, because it adds its defaults to the configuration

    keys = f"stat -c %a {tmp_path}/.dask-jobqueue.worker.key* > {tmp_path}/modes"
    taken = f"#!/bin/sh\ncp $1 {tmp_path}/script; {keys}; echo Submitted batch job 1\n"
    for name, script in {"sbatch": taken, "scancel": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = {"cores": 1, "processes": 1, "memory": "1GB", "interface": "lo", "queue": "night"}
    job |= {"shared-temp-directory": str(tmp_path), "walltime": "01:00:00"}
    with (
        dask.config.set({f"jobqueue.slurm.{name}": value for name, value in job.items()}),
        pytest.raises(ClusterError, match=r"no worker of dask_jobqueue.SLURMCluster has come"),
    ):
        squares(Settings(cluster="dask_jobqueue.SLURMCluster", first_worker=1))
    written = (tmp_path / "script").read_text()
    assert "#SBATCH -p night" in written
    assert re.search(r"dask_worker tls://127\.0\.0\.1:\d+ .*--nthreads 1 ", written)
    assert re.search(rf"--tls-key {tmp_path}/\.dask-jobqueue\S+", written)
    assert "PRIVATE KEY" not in written
    modes = {int(line, 8) for line in (tmp_path / "modes").read_text().split()}
    assert modes == {stat.S_IRUSR | stat.S_IWUSR}
    gc.collect()
    assert not list(tmp_path.glob(".dask-jobqueue*"))


def test_workers_that_do_not_come_are_not_waited_for_for_ever(
    double: Callable[..., type[Double]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask asserts that they have started, though a batch system has refused them."""
    cluster = double("cloud", "Cluster")
    close = cluster.close

    def refused(self: Double, timeout: float | None = None) -> None:
        close(self, timeout)
        raise AssertionError("Status.created")

    monkeypatch.setattr(cluster, "scale", lambda self, workers: None)
    monkeypatch.setattr(cluster, "close", refused)
    settings = Settings(cluster=OF_A_CLASS, unencrypted=True, first_worker=0.2)
    with pytest.raises(ClusterError, match=r"no worker of cloud.Cluster has come in 0.2 seconds"):
        squares(settings)


# --- one cluster for several flows


def opened(settings: Settings) -> str:
    with open_client(settings) as client:
        return str(client.scheduler.address)


def opened_twice(settings: Settings) -> list[str]:
    elsewhere = settings.model_copy(update={"store": "elsewhere"})
    with open_client(settings) as client:
        return [client.scheduler.address, opened(settings), opened(elsewhere)]


def test_flows_within_the_block_of_a_client_work_on_its_cluster(
    double: Callable[..., type[Double]],
) -> None:
    cluster = double("cloud", "Cluster")
    settings = Settings(cluster=OF_A_CLASS, unencrypted=True, workers=1)
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
