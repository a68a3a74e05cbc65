"""Name the needs that not every machine meets: tests that lack one are skipped by it, and counted.

``SLIDEWATCH_REQUIRE=chromium,data`` makes a test that is skipped for want of one of these fail, so
that a machine that should have it cannot lose it unnoticed.
"""

import os
from collections import Counter
from collections.abc import Iterable
from typing import NoReturn

import pytest

from tests.support.paths import DATA

NEEDS = {
    "bfloat16": "a processor that multiplies in it",
    "chromium": "a browser, for the pages",
    "condition": "a store that refuses a write on this condition",
    "containers": "root, podman, docker-compose and debootstrap",
    "data": "the real images, in SLIDEWATCH_DATA",
    "disks": "root, who may mount disks, and the programs that make them",
    "glibc": "the allocator of glibc",
    "gpu": "a GPU that PyTorch can use",
    "names": "a filesystem on which names need not be UTF-8",
    "openssl": "OpenSSL 3, for certificates",
    "registry": "a package registry to install from",
    "slurm": "root and the daemons of SLURM",
    "ssh-keygen": "OpenSSH",
}


def required() -> frozenset[str]:
    """The needs that must not be lacking; UsageError where one is none."""
    asked = frozenset(os.environ.get("SLIDEWATCH_REQUIRE", "").replace(",", " ").split())
    if unknown := asked - set(NEEDS):
        raise pytest.UsageError(
            f"SLIDEWATCH_REQUIRE: {', '.join(sorted(unknown))}: not one of {', '.join(NEEDS)}"
        )
    return asked


def lacking(need: str, why: str) -> NoReturn:
    """Skip the running test."""
    pytest.skip(reason(need, why))


def reason(need: str, why: str) -> str:
    """Name what is needed, and why it is not here."""
    return f"{need}: {why} ({NEEDS[need]})"


def needs(need: str, there: bool, why: str) -> pytest.MarkDecorator:
    """Skip the tests that have this mark where what they need is not there."""
    return pytest.mark.skipif(not there, reason=reason(need, why))


def needs_data(archive: str) -> pytest.MarkDecorator:
    """Skip the tests that have this mark where an archive of real images is not here."""
    return needs("data", (DATA / archive).exists(), f"{archive} is not here")


def told(report: pytest.TestReport) -> str:
    """Return the reason why a test was skipped."""
    where = report.longrepr
    return str(where[2] if isinstance(where, (tuple, list)) else where).removeprefix("Skipped: ")


def fail_if_required(report: pytest.TestReport, asked: frozenset[str]) -> None:
    """Let a test fail that was skipped for want of what is required."""
    if report.skipped and not hasattr(report, "wasxfail"):
        why = told(report)
        if why.partition(":")[0] in asked:
            report.outcome = "failed"
            report.longrepr = f"SLIDEWATCH_REQUIRE asks for {why}"


def counted(reports: Iterable[pytest.TestReport]) -> list[str]:
    """Count skipped tests by reason, on a line each."""
    by_reason = Counter(told(report) for report in reports)
    return [f"{count:4}  {why}" for why, count in sorted(by_reason.items())]
