"""TLS between the parts of a cluster: which certificates it uses, and how long they hold."""

import os
import ssl
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from distributed.security import Security

from flows.cluster.errors import ClusterError
from flows.settings import Settings


class CertificateError(Exception):
    """Certificates cannot be made or read."""


def expiry(path: Path) -> datetime:
    """When a certificate ends.

    Raises:
        CertificateError: the file cannot be read, or holds no certificate.
    """
    return read_certificate(path).not_valid_after_utc


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path} is no certificate that can be read: {error}") from None


LOOPBACK = {"127.0.0.1", "localhost", "::1"}
ANY_CODE = "whoever reaches or overhears a Dask scheduler can run any code on its workers"
CERTIFICATES = "make certificates with: slidewatch certificates FOLDER"


def security(settings: Settings) -> Security | None:
    """TLS as the settings have it, with one certificate for whatever runs here, or None.

    Raises:
        ClusterError: a file is not named, cannot be read, or does not fit the others.
    """
    named = {
        "--tls-ca": settings.tls_ca,
        "--tls-certificate": settings.tls_certificate,
        "--tls-key": settings.tls_key,
    }
    paths = [path for path in named.values() if path is not None]
    if not paths:
        return None
    if len(paths) < len(named):
        raise ClusterError(f"TLS needs all of {', '.join(named)}; {CERTIFICATES}")
    for path in paths:
        if not os.access(path, os.R_OK):
            raise ClusterError(f"{path} cannot be read; {CERTIFICATES}")
    ca, certificate, key = paths
    roles = ("client", "scheduler", "worker")
    found = Security(
        require_encryption=True,
        tls_ca_file=ca,
        **{f"tls_{role}_cert": certificate for role in roles},
        **{f"tls_{role}_key": key for role in roles},
    )
    try:
        found.get_connection_args("client")
    except ssl.SSLError as error:
        raise ClusterError(
            f"{ca}, {certificate} and {key} are not an authority, a certificate and the key of "
            f"that certificate: {error}"
        ) from error
    return found


def refuse_unencrypted(settings: Settings, scheduler: str) -> None:
    """Raise ClusterError where a scheduler beyond this machine is reached without TLS."""
    address = urlsplit(scheduler)
    if address.scheme != "tls" and address.hostname not in LOOPBACK and not settings.unencrypted:
        raise ClusterError(
            f"{scheduler} is not encrypted, and {ANY_CODE}: use a tls:// address, or give "
            "--unencrypted if that network is yours alone"
        )
