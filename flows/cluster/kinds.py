"""Start or reach each kind of cluster with Dask, as its own configuration says."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.comm.core import CommClosedError
from distributed.deploy.cluster import Cluster
from distributed.security import Security
from distributed.utils import get_mp_context

from flows.cluster import preload
from flows.cluster.trials import ClusterError
from flows.monitoring.console import working
from flows.prefect.runs import in_deployment
from flows.settings import Settings
from tasks.words import counted

REACH = 10  # seconds within which a scheduler must answer
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
ANY_CODE = "whoever reaches or overhears a Dask scheduler can run any code on its workers"
CERTIFICATES = (
    "name certificates in distributed.comm.tls of Dask's configuration; deploy/certificates.md "
    "makes some"
)
# For clusters that start here; `deploy/` sets the first and the third for those elsewhere.
STARTED = {
    # A job is handed back when its worker dies, instead of being retried by Dask.
    "distributed.scheduler.allowed-failures": 0,
    # Dask would give up a killed worker that takes longer to start again, and the night with it.
    "distributed.deploy.lost-worker-timeout": "10 minutes",
    # Dask would keep the last thousand messages to every worker, with their jobs: 20 KiB of memory
    # for each shard of a night.
    "distributed.admin.low-level-log-length": 0,
    # Dask samples the stack of each worker every 10 ms, wakes its processes every 20 ms, and
    # measures them often: an idle coordinator and its workers would take a tenth of a core each.
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


def certificates() -> Any:
    """Read Dask's `Security`; ClusterError if it names certificates that a client cannot use."""
    tls: Any = Security()
    try:
        tls.get_connection_args("client")
    except OSError as error:  # of a file, or of TLS itself
        raise ClusterError(f"TLS cannot be used ({error}): {CERTIFICATES}") from error
    return tls


@contextmanager
def _client_of(start: Callable[[], Cluster], failure: str, mend: str) -> Iterator[Client]:
    """Start a cluster, and open its client; ClusterError has the ``failure`` and how to mend it."""
    with dask.config.set(STARTED):
        try:
            with redirect_stdout(sys.stderr):  # where progress belongs
                cluster = start()
        except Exception as error:  # of an HTTP client, a YAML file or NVIDIA's library
            said = str(error).partition("\n")[0]
            raise ClusterError(f"{failure} ({type(error).__name__}: {said}): {mend}") from error
        try:
            with Client(cluster, set_as_default=False) as client:
                yield client
        finally:
            with suppress(AssertionError):  # Dask's own, where a batch system has refused a job
                cluster.close()


@contextmanager
def _for_us_alone() -> Iterator[dict[str, Any]]:
    """Make a key for this run and a private folder: any account could run code by loopback."""
    with tempfile.TemporaryDirectory(prefix="slidewatch-", ignore_cleanup_errors=True) as folder:
        yield HERE | {"security": Security.temporary(), "local_directory": folder}


@contextmanager
def _local(settings: Settings) -> Iterator[Client]:
    working(f"starting {counted(workers_of(settings), 'worker')}", long=True)
    preload.import_for_workers()
    preload.wait_for_imports()
    with dask.config.set(FORKED):
        get_mp_context()  # imports all that Dask knows, to find out which packages are installed
    # Today's environment, not that of the start of the workers' parent; and no module is read from
    # the working folder, which has images.
    own = {"n_workers": workers_of(settings), "env": os.environ | {"PYTHONSAFEPATH": "1"}}
    with (
        _for_us_alone() as options,
        dask.config.set(FORKED),
        _client_of(
            partial(LocalCluster, processes=True, **own, **options),
            "this machine's workers do not start",
            "each needs about 400 MiB of memory, 20 open files (ulimit -n) and a place among your "
            "processes (ulimit -u); raise these, or give fewer --workers",
        ) as client,
    ):
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        # A worker that has several cores decodes on one while its network runs on another.
        if len(cores) == workers_of(settings):
            client.register_plugin(OwnCore(cores))
        yield client


def stay_on(core: int) -> None:
    """Keep all threads of this process, and those that they start, on one core; on Linux alone."""
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), {core})


class OwnCore(WorkerPlugin):
    """Keep each worker of this machine, whose name is its number, on a core of its own.

    Its threads would otherwise move from core to core, where the caches hold another worker's data:
    extraction and scoring take 5% longer.
    """

    name = "own-core"

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = cores

    def setup(self, worker: Any) -> None:
        """Bind the worker's process."""
        with suppress(OSError):  # a container may forbid it, or have lost the core
            stay_on(self._cores[worker.name])


@contextmanager
def _cuda(_: Settings) -> Iterator[Client]:
    working("starting a worker for each GPU", long=True)
    start = _class_of("dask_cuda.LocalCUDACluster")
    mend = "see what nvidia-smi says, or use cluster = local"
    with (
        _for_us_alone() as options,
        _client_of(partial(start, **options), "no GPU can be used", mend) as client,
    ):
        yield client


@contextmanager
def _scheduler(settings: Settings) -> Iterator[Client]:
    working("reaching the Dask scheduler", long=True)
    address = settings.scheduler
    if address is None:
        raise ClusterError("cluster = scheduler needs an address: give --scheduler tls://...")
    encrypted, host = urlsplit(address).scheme == "tls", urlsplit(address).hostname
    if not (encrypted or host in LOOPBACK or settings.unencrypted):
        raise ClusterError(
            f"{address} is not encrypted, and {ANY_CODE}: use a tls:// address, or set "
            "unencrypted if that network is yours alone"
        )
    tls = certificates()
    if encrypted and not (tls.tls_ca_file and tls.tls_client_cert):
        raise ClusterError(f"{address} needs certificates: {CERTIFICATES}")
    try:
        client = Client(address, security=tls, set_as_default=False, timeout=REACH)
    except CommClosedError as error:  # with TLS 1.3, one of several errors in the handshake
        raise ClusterError(
            f"the Dask scheduler at {address} and this machine do not accept each other "
            f"({error}): both must use TLS, or neither, with certificates of one authority that "
            "have not ended; slidewatch doctor says when they do"
        ) from error
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no Dask scheduler at {address}: {error}") from error
    with client:
        yield client


@contextmanager
def of_class(settings: Settings) -> Iterator[Client]:
    """Start a cluster of the class that the settings name, as Dask's configuration describes it."""
    working("waiting for workers", long=True)
    name, options = settings.cluster, {}
    if in_deployment() and name != Settings().cluster:
        # Whoever may start a deployment must not choose what its worker imports.
        raise ClusterError(f"a deployment may not name {name}: name it in this worker's settings")
    mend = "its settings are those of Dask's configuration; deploy/clusters.md has examples"
    if not settings.unencrypted:
        tls = certificates()
        # Without certificates in the configuration, temporary ones that only this run knows.
        options["security"] = tls if tls.tls_ca_file else Security.temporary()
        mend += (
            f". A class that takes no `security` has no TLS, and {ANY_CODE}: keep others away from "
            "them and set unencrypted"
        )
    start = partial(_class_of(name), **options)
    with _client_of(start, f"{name} does not start", mend) as client:
        cluster: Any = client.cluster
        if not (settings.unencrypted or cluster.scheduler_address.startswith("tls://")):
            raise ClusterError(f"the scheduler of {name} is not encrypted, and {ANY_CODE}")
        cluster.scale(workers_of(settings))
        try:
            client.wait_for_workers(1, timeout=settings.first_worker)
        except TimeoutError:
            raise ClusterError(
                f"no worker of {name} has come in {settings.first_worker:g} seconds: see its queue "
                "and the workers' logs, or wait longer: set first_worker"
            ) from None
        yield client


OPENERS: dict[str, Callable[[Settings], AbstractContextManager[Client]]] = {
    "local": _local,
    "cuda": _cuda,
    "scheduler": _scheduler,
}


def _class_of(name: str) -> Callable[..., Cluster]:
    module, _, own = name.rpartition(".")
    try:
        found = getattr(import_module(module), own)
    except (ImportError, AttributeError) as error:
        raise ClusterError(
            f"there is no {name} ({error}): install its package, such as slidewatch[cuda], "
            "slidewatch[slurm] or slidewatch[kubernetes]"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Cluster)):
        raise ClusterError(f"{name} is not the class of a Dask cluster")
    return found
