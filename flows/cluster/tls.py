"""Set up TLS between the parts of a cluster, and read when certificates expire."""

import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509
from distributed.security import Security

from flows.cluster.requirements import ClusterError, tls_files
from flows.settings import Settings


def expiry(path: Path) -> datetime:
    """Read the time at which a certificate expires.

    Raises:
        ClusterError: the file cannot be read, or has no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise ClusterError(f"{path} is no certificate that can be read: {error}") from None


def security(settings: Settings) -> Security | None:
    """Make Dask's TLS options from the settings, one certificate for all roles; None without TLS.

    Raises:
        ClusterError: a file is not named, cannot be read, or does not fit the others.
    """
    files = tls_files(settings)
    if files is None:
        return None
    ca, certificate, key = files
    roles = ("client", "scheduler", "worker")
    options = Security(
        require_encryption=True,
        tls_ca_file=ca,
        **{f"tls_{role}_cert": certificate for role in roles},
        **{f"tls_{role}_key": key for role in roles},
    )
    try:
        options.get_connection_args("client")
    except ssl.SSLError as error:
        raise ClusterError(
            f"{ca}, {certificate} and {key} are not an authority, a certificate and the key of "
            f"that certificate: {error}"
        ) from error
    return options
