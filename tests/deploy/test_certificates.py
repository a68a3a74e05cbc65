"""deploy/certificates.md: its commands are run, and what they make opens TLS as Dask does."""

import os
import ssl
import stat
from pathlib import Path

import pytest
from distributed.security import Security

from tests.support.certificates import make_certificates


def context(tls: Path, role: str, *, server: bool) -> ssl.SSLContext:
    """The context of a Dask process that has a role's pair."""
    end = "scheduler" if server else "client"
    pair = {f"tls_{end}_cert": f"{tls}/{role}.pem", f"tls_{end}_key": f"{tls}/{role}-key.pem"}
    made = Security(tls_ca_file=f"{tls}/ca.pem", **pair)
    arguments = made.get_listen_args("scheduler") if server else made.get_connection_args("client")
    found: ssl.SSLContext = arguments["ssl_context"]
    found.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
    return found


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Let both ends speak in memory until they accept each other; SSLError where one does not."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
                end.read(1)  # with TLS 1.3 the client is told of a refusal with the first answer
            except ssl.SSLWantReadError:
                pass
    assert all(end.version() == "TLSv1.3" for end in ends)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_pair_opens_tls_and_a_client_does_not_pass_for_a_scheduler(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path)
    for called, calls in (("scheduler", "client"), ("scheduler", "worker"), ("worker", "worker")):
        shake_hands(context(tls, called, server=True), context(tls, calls, server=False))
    with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
        shake_hands(context(tls, "client", server=True), context(tls, "worker", server=False))


def test_private_keys_are_for_their_owner_alone_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        tls = make_certificates(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tls.iterdir()} == {0o600}
    assert stat.S_IMODE(tls.stat().st_mode) == 0o700


def test_the_same_commands_renew_the_pairs_and_old_and_new_ones_work_together(
    tmp_path: Path,
) -> None:
    tls = make_certificates(tmp_path, days=1)
    old, early = contents(tls), context(tls, "scheduler", server=True)
    make_certificates(tmp_path)
    new = contents(tls)
    assert {name for name in new if new[name] == old[name]} == {"ca.pem", "ca-key.pem"}
    shake_hands(early, context(tls, "worker", server=False))
    other = make_certificates(tmp_path / "other")
    strange = context(other, "worker", server=True), context(tls, "client", server=False)
    for pair in (strange, (early, context(other, "client", server=False))):
        with pytest.raises(ssl.SSLError, match="certificate verify failed"):
            shake_hands(*pair)
