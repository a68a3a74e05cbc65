"""Servers that all tests share: S3, Prefect and Dask."""

import fcntl
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import fsspec
import pytest


@dataclass
class Requests:
    """Keep verb and path (LIST: and prefix) of each request to the S3 server, in order."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def note(self, environ: dict[str, Any]) -> None:
        """Note a request that has come."""
        verb, path, query = (environ[k] for k in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING"))
        if verb == "GET" and "list-type" in query:
            verb, path = "LIST", query
        self.seen.append((verb, path))

    def counts(self) -> Counter[str]:
        """Count those of each verb."""
        return Counter(verb for verb, _ in self.seen)


REQUESTS = Requests()


def answers(api: str) -> bool:
    """Return whether a Prefect server is there and well."""
    with suppress(OSError), urlopen(f"{api}/health", timeout=5):
        return True
    return False


def free_port() -> int:
    """Find a port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def s3_at(port: int) -> Iterator[None]:
    """Name an S3 server in the environment, so that this process and those it starts find it."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            # What this machine's owner has set up for S3 is not for tests.
            "AWS_CONFIG_FILE": "none",
            "AWS_SHARED_CREDENTIALS_FILE": "none",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patched.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patched.delenv(name, raising=False)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # clients keep their server
        yield
    fsspec.get_filesystem_class("s3").clear_instance_cache()


IDLE_SERVICES = (
    "CANCELLATION_CLEANUP", "FOREMAN", "LATE_RUNS", "SCHEDULER", "PAUSE_EXPIRATIONS", "TRIGGERS",
    "REPOSSESSOR",
)  # fmt: skip


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URL of an empty bucket on an S3 server of one's own, reached over HTTP.

    Its address and keys are in the environment, as an operator would set them, so that worker
    processes find it too. moto answers one request at a time: it looks for an object and then
    writes it, which S3 does in one step.
    """
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        REQUESTS.note(environ)
        with turn:
            return moto(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with s3_at(server.port):
        fsspec.filesystem("s3").mkdir("slidewatch")
        yield "s3://slidewatch"
    server.shutdown()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[str]:
    """The URL of a Prefect server that the processes of a run share, for one takes long to start.

    Whoever starts it ends last. Its services, which look for late runs and the like, are off.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent
    known = folder / "prefect.url"
    with (folder / "starting").open("w") as starting, (folder / "using").open("w") as using:
        fcntl.flock(starting, fcntl.LOCK_EX)
        if known.exists():
            fcntl.flock(using, fcntl.LOCK_SH)
            fcntl.flock(starting, fcntl.LOCK_UN)
            with temporary_settings({PREFECT_API_URL: known.read_text()}):
                yield known.read_text()
            return
        with ExitStack() as work:
            with pytest.MonkeyPatch.context() as patch:
                for service in IDLE_SERVICES:
                    patch.setenv(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")
                work.enter_context(prefect_test_harness(server_startup_timeout=120))
            known.write_text(str(PREFECT_API_URL.value()))
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield known.read_text()
            fcntl.flock(using, fcntl.LOCK_EX)


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """A Dask scheduler with two workers, as an operator would have one running."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address
