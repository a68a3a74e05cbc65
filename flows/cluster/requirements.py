"""Check the settings of a kind of cluster, without starting or importing anything."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from flows.settings import Settings

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
ANY_CODE = "whoever reaches or overhears a Dask scheduler can run any code on its workers"
CERTIFICATES = "deploy/certificates.md makes certificates"


class ClusterError(Exception):
    """The cluster cannot be reached, or a piece of work has failed on it."""


def refuse_incomplete(settings: Settings) -> None:
    """Raise ClusterError if a setting that the kind of cluster needs is missing or wrong."""
    if settings.cluster == "scheduler":
        scheduler_address(settings)
    if settings.cluster == "kubernetes":
        cluster_spec(settings)
    if settings.cluster in {"scheduler", "slurm"}:
        tls_files(settings)


def scheduler_address(settings: Settings) -> str:
    """Return the address of the scheduler.

    Raises:
        ClusterError: there is none, or the connection to it is not encrypted.
    """
    address = settings.scheduler
    if address is None:
        raise ClusterError("cluster = scheduler needs an address: give --scheduler tls://...")
    refuse_unencrypted(settings, address)
    return address


def refuse_unencrypted(settings: Settings, scheduler: str) -> None:
    """Raise ClusterError for a scheduler on another machine without TLS."""
    address = urlsplit(scheduler)
    if address.scheme != "tls" and address.hostname not in LOOPBACK and not settings.unencrypted:
        raise ClusterError(
            f"{scheduler} is not encrypted, and {ANY_CODE}: use a tls:// address, or set "
            "unencrypted if that network is yours alone"
        )


def cluster_spec(settings: Settings) -> str:
    """Return the file that describes the cluster to start on Kubernetes.

    Raises:
        ClusterError: the file is missing, or a scheduler without TLS was not allowed.
    """
    spec = settings.cluster_spec
    if spec is None or not Path(spec).is_file():
        raise ClusterError(
            "cluster = kubernetes needs the YAML file of a DaskCluster: set cluster_spec"
            + ("" if spec is None else f"; {spec} does not exist")
        )
    if not settings.unencrypted:
        raise ClusterError(
            "Dask's Kubernetes operator has no TLS, and " + ANY_CODE + ": keep others away from "
            "its pods by a NetworkPolicy and set unencrypted, or start a scheduler with TLS and "
            "use cluster = scheduler"
        )
    return spec


def tls_files(settings: Settings) -> tuple[str, str, str] | None:
    """Return the files of the authority, the certificate and its key; None without any.

    Raises:
        ClusterError: a file is not named, or cannot be read.
    """
    named = {
        "tls_ca": settings.tls_ca,
        "tls_certificate": settings.tls_certificate,
        "tls_key": settings.tls_key,
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
    return ca, certificate, key
