"""Set up TLS between the parts of a cluster, and read when certificates expire."""

import os
import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509
from distributed.security import Security

from flows.cluster.trials import ClusterError
from flows.settings import Settings

CERTIFICATES = "deploy/certificates.md makes certificates"


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
    names = ("tls_ca", "tls_certificate", "tls_key")
    files = [path for name in names if (path := getattr(settings, name)) is not None]
    if not files:
        return None
    if len(files) < len(names):
        raise ClusterError(f"TLS needs all of {', '.join(names)}; {CERTIFICATES}")
    for path in files:
        if not os.access(path, os.R_OK):
            raise ClusterError(f"{path} cannot be read; {CERTIFICATES}")
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
