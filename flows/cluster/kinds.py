"""Start or reach each kind of cluster with Dask, whose import takes a second.

Each kind reads the configuration of its own ecosystem; slidewatch adds the number of workers and
TLS. The work on the client is the same for all of them.
"""

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.comm.core import CommClosedError
from distributed.security import Security
from distributed.utils import get_mp_context

from flows.cluster import preload
from flows.cluster.tls import CERTIFICATES, security
from flows.cluster.trials import ClusterError
from flows.jobs.worker import stay_on
from flows.settings import Settings

REACH = 10  # seconds within which a scheduler must answer
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
ANY_CODE = "whoever reaches or overhears a Dask scheduler can run any code on its workers"
# For clusters that start here; `deploy/` sets the first and the last for those elsewhere.
STARTED = {
    # A job is handed back when its worker dies, instead of being retried by Dask.
    "distributed.scheduler.allowed-failures": 0,
    # Dask would give up a killed worker that takes longer to start again, and the night with it.
    "distributed.deploy.lost-worker-timeout": "10 minutes",
    # Dask would keep the last thousand messages to every worker, with their jobs: 20 KiB of memory
    # for each shard of a night.
    "distributed.admin.low-level-log-length": 0,
}
# Dask samples the stack of each worker every 10 ms, wakes its processes every 20 ms, and measures
# them and the machine often: an idle coordinator and its workers would take a tenth of a core each.
QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "500ms",
}
FORKED = {"distributed.worker.multiprocessing-method": "forkserver"}
HERE = {
    "threads_per_worker": 1,
    "host": "127.0.0.1",
    "dashboard_address": "127.0.0.1:0",
    "silence_logs": logging.CRITICAL,
}


def workers_of(settings: Settings) -> int:
    """Return the number of workers to start: by default one for each processor that is ours."""
    return settings.workers or int(CPU_COUNT)  # what a container or batch system leaves us


class OwnCore(WorkerPlugin):
    """A plugin that keeps each worker of this machine on a core of its own.

    Its threads would otherwise move from core to core, where the caches hold another worker's
    data: extraction and scoring take 5% longer.
    """

    name = "own-core"

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = cores

    def setup(self, worker: Any) -> None:
        """Bind the worker's process; a worker's name is its number."""
        with suppress(OSError):  # a container may forbid it, or have lost the core
            stay_on(self._cores[worker.name])


@contextmanager
def _client_of(
    start: Callable[[], Any],
    failure: str,
    mend: str,
    ask: Callable[[Any], None] = lambda cluster: None,
) -> Iterator[Client]:
    """Start a cluster, ``ask`` it for workers, and open its client.

    Raises:
        ClusterError: it does not start; the message has the ``failure`` and how to mend it.
    """
    try:
        cluster = start()
    except Exception as error:  # of an HTTP client, a YAML file or NVIDIA's library
        said = str(error).partition("\n")[0]
        raise ClusterError(f"{failure} ({type(error).__name__}: {said}): {mend}") from error
    with cluster:
        ask(cluster)
        with Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _for_us_alone() -> Iterator[dict[str, Any]]:
    """Make a key for this run and a private folder, to keep out this machine's other users.

    Every account can connect to loopback, and whoever connects to a scheduler can run code on its
    workers.
    """
    with tempfile.TemporaryDirectory(prefix="slidewatch-", ignore_cleanup_errors=True) as folder:
        yield HERE | {"security": Security.temporary(), "local_directory": folder}


@contextmanager
def _local(settings: Settings) -> Iterator[Client]:
    preload.import_for_workers()
    preload.wait_for_imports()
    with dask.config.set(FORKED):
        get_mp_context()  # imports all that Dask knows, to find out which packages are installed
    workers = workers_of(settings)
    # Today's environment, not that of the start of the workers' parent; and no module is read from
    # the working folder, which has images.
    own = {"n_workers": workers, "processes": True, "env": os.environ | {"PYTHONSAFEPATH": "1"}}
    with (
        _for_us_alone() as options,
        dask.config.set(STARTED | QUIET | FORKED),
        _client_of(
            partial(LocalCluster, **own, **options),
            "this machine's workers do not start",
            "each needs about 400 MiB of memory and a place among the processes that you may have; "
            "give fewer --workers",
        ) as client,
    ):
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        # A worker that has several cores decodes on one while its network runs on another.
        if len(cores) == workers:
            client.register_plugin(OwnCore(cores))
        yield client


@contextmanager
def _cuda(_: Settings) -> Iterator[Client]:
    start = _imported("dask_cuda", "cuda").LocalCUDACluster
    mend = "see what nvidia-smi says, or use cluster = local"
    with (
        _for_us_alone() as options,
        dask.config.set(STARTED),
        _client_of(partial(start, **options), "no GPU can be used", mend) as client,
    ):
        yield client


@contextmanager
def _scheduler(settings: Settings) -> Iterator[Client]:
    address = settings.scheduler
    if address is None:
        raise ClusterError("cluster = scheduler needs an address: give --scheduler tls://...")
    encrypted, host = urlsplit(address).scheme == "tls", urlsplit(address).hostname
    if not (encrypted or host in LOOPBACK or settings.unencrypted):
        raise ClusterError(
            f"{address} is not encrypted, and {ANY_CODE}: use a tls:// address, or set "
            "unencrypted if that network is yours alone"
        )
    tls = security(settings) or Security()  # or from Dask's own configuration
    if encrypted and not tls.get_tls_config_for_role("client")["ca_file"]:
        raise ClusterError(
            f"{address} needs certificates: set tls_ca, tls_certificate and tls_key; {CERTIFICATES}"
        )
    if tls.require_encryption and not encrypted:
        raise ClusterError(f"there are certificates, but {address} is not a tls:// address")
    try:
        client = Client(address, security=tls, set_as_default=False, timeout=REACH)
    except CommClosedError as error:  # with TLS 1.3, one of several errors in the handshake
        raise ClusterError(
            f"the Dask scheduler at {address} and this machine do not accept each other "
            f"({error}): both must use TLS, or neither, with certificates of one authority that "
            "have not ended; slidewatch doctor says when they do"
        ) from error
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler at {address}: {error}") from error
    with client:
        yield client


@contextmanager
def _kubernetes(settings: Settings) -> Iterator[Client]:
    spec = settings.cluster_spec
    if spec is None or not Path(spec).is_file():
        raise ClusterError(
            "cluster = kubernetes needs the YAML file of a DaskCluster: set cluster_spec"
            + ("" if spec is None else f"; {spec} does not exist")
        )
    if not settings.unencrypted:
        raise ClusterError(
            f"Dask's Kubernetes operator has no TLS, and {ANY_CODE}: keep others away from its "
            "pods by a NetworkPolicy and set unencrypted, or start a scheduler with TLS and use "
            "cluster = scheduler"
        )
    start = _imported("dask_kubernetes.operator", "kubernetes").KubeCluster
    with _client_of(
        partial(start, custom_cluster_spec=spec, quiet=True),
        f"Kubernetes does not start the cluster of {spec}",
        "see kubectl describe daskcluster, and that Dask's operator is installed",
        lambda cluster: cluster.scale(workers_of(settings)),
    ) as client:
        _wait_for_first(client, settings, "kubectl get pods")
        yield client


@contextmanager
def _slurm(settings: Settings) -> Iterator[Client]:
    start = _imported("dask_jobqueue", "slurm").SLURMCluster
    # Without certificates in the settings, temporary ones that only this run knows.
    tls = security(settings) or Security.temporary()

    def ask(cluster: Any) -> None:
        _refuse_invalid(cluster.job_script())
        cluster.scale(workers_of(settings))

    with (
        dask.config.set(STARTED),
        _client_of(
            partial(start, security=tls, silence_logs=logging.CRITICAL),
            "SLURM jobs are not described",
            "copy deploy/slurm/jobqueue.yaml, and name the copy in DASK_CONFIG",
            ask,
        ) as client,
    ):
        _wait_for_first(client, settings, "squeue --me")
        yield client


# The function that opens each kind, and the words for it.
KINDS: dict[str, tuple[Callable[[Settings], AbstractContextManager[Client]], str]] = {
    "local": (_local, "starting {workers}"),
    "cuda": (_cuda, "starting a worker for each GPU"),
    "scheduler": (_scheduler, "reaching the Dask scheduler"),
    "kubernetes": (_kubernetes, "waiting for workers on Kubernetes"),
    "slurm": (_slurm, "waiting for workers from SLURM"),
}


def _refuse_invalid(script: str) -> None:
    """Raise ClusterError if SLURM would refuse a job, because Dask does not report that."""
    if shutil.which("sbatch") is None:
        raise ClusterError("there is no sbatch here: run slidewatch where SLURM takes jobs")
    done = subprocess.run(
        ["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ClusterError(
            f"SLURM refuses the workers' job: {' '.join(done.stderr.split())}; its resources are "
            "in jobqueue.slurm of Dask's configuration"
        )


def _wait_for_first(client: Client, settings: Settings, see: str) -> None:
    try:
        client.wait_for_workers(1, timeout=settings.first_worker)
    except TimeoutError:
        raise ClusterError(
            f"no worker has come in {settings.first_worker:g} seconds: see {see} and the workers' "
            "logs, or wait longer: set first_worker"
        ) from None


def _imported(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ClusterError(
            f"cluster = {extra} needs more ({error}): pip install 'slidewatch[{extra}]'"
        ) from error
