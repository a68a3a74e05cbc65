"""A separate scheduler with TLS and two workers.

They are started by Dask's own commands, as an operator would, with Dask's default configuration.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from distributed import Client
from distributed.comm.core import CommClosedError
from distributed.security import Security

from flows.cluster.client import open_client
from flows.cluster.executor import run_jobs
from flows.cluster.trials import ClusterError
from tests.support import certificates, strangers
from tests.support.operated import Operated, operated
from tests.support.waiting import until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    with operated(tmp_path_factory.mktemp("operated"), workers=2) as cluster:
        certificates.make_certificates(cluster.folder / "other")
        with Client(cluster.address, security=_security(cluster), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield cluster


# --- who is let in


def _security(cluster: Operated, ca: str = "certificates", pair: str = "certificates") -> Security:
    authority, certificate, key = cluster.tls("client", pair, ca)
    return Security(
        require_encryption=True,
        tls_ca_file=authority,
        tls_client_cert=certificate,
        tls_client_key=key,
    )


@pytest.mark.slow
@pytest.mark.parametrize("ca", ["certificates", "other"])
def test_a_client_of_another_authority_is_refused(cluster: Operated, ca: str) -> None:
    """Whether or not it trusts the scheduler."""
    with pytest.raises(CommClosedError, match=r"SSLError|does not match|closed"):
        strangers.knock(cluster.address, _security(cluster, ca, "other"))


def test_a_plain_client_is_refused(cluster: Operated) -> None:
    address = cluster.address.replace("tls://", "tcp://")
    with pytest.raises(CommClosedError):
        strangers.knock(address)


def test_a_client_without_a_certificate_is_refused(cluster: Operated) -> None:
    """Dask's client would not even try, so this one is made by hand."""
    where = urlsplit(cluster.address)
    context = ssl.create_default_context(cafile=cluster.tls("client")[0])
    context.check_hostname = False
    with (
        socket.create_connection((where.hostname, where.port), timeout=10) as plain,
        context.wrap_socket(plain) as encrypted,
        pytest.raises(ssl.SSLError, match="certificate required"),
    ):
        encrypted.recv(1024)  # with TLS 1.3 it is told so with the first answer


@pytest.mark.parametrize(
    ("ca", "pair"), [("certificates", "other"), ("other", "certificates"), ("other", "other")]
)
def test_certificates_that_are_not_accepted_are_said_so(
    cluster: Operated, ca: str, pair: str
) -> None:
    with (
        cluster.client(pair, ca),
        pytest.raises(ClusterError, match=r"do not accept each other .* authority"),
        open_client(cluster.settings("store")),
    ):
        pass


# --- what they do


@pytest.mark.slow
def test_a_worker_killed_with_its_nanny_costs_no_result(cluster: Operated) -> None:
    """As when its machine loses power."""
    with open_client(cluster.settings("store")) as client:
        results = run_jobs(client, partial(_slowly, abs), range(24), title="numbers")
        first = next(results)
        cluster.kill(2)
        assert [first, *results] == list(range(24))
        assert len(client.nthreads()) == 1


def address_of(client: Client, name: str) -> str:
    """Wait until a worker of a name has joined; others may be joining too."""

    def joined() -> str | None:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        return next((at for at, about in workers.items() if about["name"] == name), None)

    return str(until(joined, 60, pause=0.1))


@pytest.mark.slow
def test_renewed_certificates_work_beside_old_ones_and_other_versions_do_not(
    cluster: Operated, tmp_path: Path
) -> None:
    """A worker joins a running scheduler, whose certificate is older, while a client is open."""
    with open_client(cluster.settings("store")) as early:
        certificates.make_certificates(cluster.folder / "certificates")
        odd = tmp_path / "timm-0.0.1.dist-info"
        odd.mkdir()
        (odd / "METADATA").write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0.0.1\n")
        which = cluster.start_worker("odd", PYTHONPATH=str(tmp_path))
        joined = address_of(early, "odd")
        with (
            pytest.raises(ClusterError, match=rf"timm is \S+ here but 0\.0\.1 on {joined}:"),
            open_client(cluster.settings("store", alpha=0.04)),  # else the open one is used
        ):
            pass
        with pytest.raises(ClusterError, match=r"timm is .* but 0\.0\.1 .*the same versions.*kept"):
            list(run_jobs(early, partial(_slowly, abs), range(64), title="numbers"))
        cluster.kill(which)


def _slowly(work: Callable[[Any], Any], job: Any) -> Any:
    time.sleep(0.3)
    return work(job)
