"""Open the compute cluster as a Dask client; without a cluster, Dask is not imported."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from threadpoolctl import threadpool_limits

from flows.cluster.trials import SAME_VERSIONS, ClusterError
from flows.jobs.libraries import PACKAGES, PROTOCOL, comparable, differences, installed
from flows.monitoring import console, logs
from flows.settings import Settings

if TYPE_CHECKING:
    from distributed import Client as Client
else:
    Client = Any

_OPENED: ContextVar["tuple[Settings, Client] | None"] = ContextVar("opened", default=None)


class Here:
    """Stand in for a Dask client: a job runs when its result is asked for."""

    def map(self, work: Callable[[Any], Any], jobs: Iterable[Any], **_: Any) -> "list[_Later]":
        """Keep jobs."""
        return [_Later(partial(work, job)) for job in jobs]

    def nthreads(self) -> dict[str, int]:
        """Count this process as one worker."""
        return {"here": 1}

    def cancel(self, jobs: Iterable["_Later"], *, force: bool) -> None:
        """Do nothing, because a job whose result nobody asks for never runs."""


@dataclass(frozen=True)
class _Later:
    """Stand in for a Dask future."""

    _run: Callable[[], Any]
    status = "pending"  # until its result is asked for

    def result(self, timeout: float) -> Any:
        return self._run()

    def done(self) -> bool:
        return True  # an error is always the job's own

    def release(self) -> None:
        """Do nothing: whoever has taken the result keeps it."""


@contextmanager
def open_client(settings: Settings) -> Iterator[Client]:
    """Open a client of the cluster in the settings; a cluster started for it ends with the block.

    Within the block, flows with the same settings but any store use the same cluster. ClusterError
    if it cannot be started or reached, or has other versions of packages that change results.
    """
    wanted, opened = settings.model_copy(update={"store": ""}), _OPENED.get()
    if opened and opened[0] == wanted:
        yield opened[1]
        return
    from flows.cluster.kinds import OPENERS, of_class  # with Dask

    with OPENERS.get(settings.cluster, of_class)(settings) as client:
        console.working("at work")
        check_versions(client)
        logs.log(logging.INFO, f"Dask shows the work at {client.dashboard_link}")
        with logs.setting(_OPENED, (wanted, client)):
            yield client


@contextmanager
def in_this_process(settings: Settings) -> Iterator[None]:
    """Let flows with these settings run their jobs here, on one thread, during the block."""
    import_module("scipy.linalg")  # its threads are limited once they are there
    torch = sys.modules.get("torch")  # to import it takes seconds, and not every job needs it
    threads = torch and torch.get_num_threads()
    here = settings.model_copy(update={"store": ""}), cast(Client, Here())
    try:
        with logs.setting(_OPENED, here), threadpool_limits(1):
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def check_versions(client: Client) -> None:
    """Raise ClusterError if workers have other versions that change results, or Dask differs."""
    try:
        versions = cast(dict[str, Any], client.get_versions(packages=list(PACKAGES)))
    except OSError as error:
        raise ClusterError(f"the Dask scheduler does not answer: {error}") from error
    here = installed()
    on_workers = {who: comparable(seen["packages"]) for who, seen in versions["workers"].items()}
    scheduler = comparable(versions["scheduler"]["packages"])
    on_scheduler = {name: scheduler[name] for name in ("python", *PROTOCOL)}
    differ = differences(here, on_workers | {"the scheduler": on_scheduler})
    if differ:
        raise ClusterError(f"{'; '.join(differ)}: {SAME_VERSIONS}")
