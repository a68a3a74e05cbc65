"""Compare the versions that change results; a worker with others does no job."""

import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

# Python, Dask and slidewatch itself also decide whether two processes understand each other.
PROTOCOL = ("slidewatch", "dask", "distributed")
RESULTS = ("numpy", "openvino", "pillow", "pyarrow", "timm", "torch", "zarr")
PACKAGES = PROTOCOL + RESULTS
# Packages that a model's card, a page and `slidewatch doctor` list, including builds.
OF_A_MODEL = ("slidewatch", "torch", "timm", "torchvision", "numpy", "pillow")
OF_A_PAGE = ("slidewatch", "torch")
OF_A_MACHINE = ("slidewatch", "prefect", "dask", "torch", "zarr", "pyarrow")
OF_FEATURES = ("python", "numpy", "openvino", "pillow", "torch")
SHOWN = 3  # machines named for each version
MISSING = "none"


class VersionsDifferError(Exception):
    """A worker has other versions than the coordinator."""


@cache
def installed() -> dict[str, str]:
    """Look up the version of Python and of each of `PACKAGES` in this process."""
    return comparable({"python": ".".join(map(str, sys.version_info))} | exact(PACKAGES))


def changed_since(before: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Describe each version that has changed, ignoring builds and unknown ones.

    >>> changed_since({"torch": "0.1"}, ["torch", "pillow"])[0].partition(",")[0]
    'torch was 0.1'
    """
    here, then = installed(), comparable({"python": MISSING} | dict(before))
    return [
        f"{name} was {then[name]}, and is {here[name]}"
        for name in names
        if name in before and then[name] != here[name]
    ]


def exact(packages: Iterable[str]) -> dict[str, str]:
    """Look up the version of each package here, including the build; `MISSING` if there is none."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = MISSING
    return versions


def comparable(versions: Mapping[str, str | None]) -> dict[str, str]:
    """Reduce versions to what must be equal: Python's major and minor, others without build.

    >>> comparable({"python": "3.11.2.final.0", "torch": "2.6.0+cpu", "timm": None})
    {'python': '3.11', 'torch': '2.6.0', 'timm': 'none'}
    """
    public = {name: (text or MISSING).partition("+")[0] for name, text in versions.items()}
    return public | {"python": ".".join(public["python"].split(".")[:2])}


def differences(here: Mapping[str, str], elsewhere: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Describe versions that differ from those here, among packages that both have.

    >>> differences({"timm": "1.0.19"}, {"a": {"timm": "1.0.15"}, "b": {"timm": "1.0.19"}})
    ['timm is 1.0.19 here but 1.0.15 on a']
    """
    texts = []
    for name, expected in here.items():
        others: dict[str, list[str]] = {}
        for who, theirs in elsewhere.items():
            if name in theirs and theirs[name] != expected:
                others.setdefault(theirs[name], []).append(who)
        texts += [
            f"{name} is {expected} here but {text} on {', '.join(who[:SHOWN])}"
            + f" and {len(who) - SHOWN} more" * (len(who) > SHOWN)
            for text, who in sorted(others.items())
        ]
    return texts


def run_if_same(expected: Mapping[str, str], work: Callable[[Job], Result], job: Job) -> Result:
    """Do a job; VersionsDifferError if the coordinator that sent it has other versions."""
    differ = differences(expected, {socket.gethostname(): installed()})
    if differ:
        raise VersionsDifferError("; ".join(differ))
    return work(job)
