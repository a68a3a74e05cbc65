"""deploy/locks: one version of each package, with the digests of its files."""

import re
import tomllib

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

LOCKS = ROOT / "deploy" / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
EXTRAS = {"development.txt": ["dev"], "image.txt": ["kubernetes", "s3"]}
PYTHONS = [
    each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)
]

by_lock = pytest.mark.parametrize("name", EXTRAS)
by_python = pytest.mark.parametrize("python", PYTHONS)


def lines(name: str) -> list[str]:
    """The requirements of a lock, each with its digests."""
    text = (LOCKS / name).read_text().replace("\\\n", "")
    return [line for line in text.splitlines() if not line.startswith("#")]


def pins(name: str, python: str) -> dict[str, str]:
    """The version of each package that a lock and torch.txt have for a Python on this platform."""
    environment = {
        **default_environment(), "python_version": python, "python_full_version": f"{python}.0"
    }  # fmt: skip
    found = dict[str, str]()
    for line in [*lines(name), *lines("torch.txt")]:
        asked = Requirement(line.partition("--hash")[0])
        if asked.marker is None or asked.marker.evaluate(environment):
            (version,) = asked.specifier
            assert version.operator == "=="
            assert canonicalize_name(asked.name) not in found
            found[canonicalize_name(asked.name)] = version.version
    return found


@by_python
@by_lock
def test_a_lock_has_all_that_is_asked_for(name: str, python: str) -> None:
    found = pins(name, python)
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(each for extra in EXTRAS[name] for each in extras[extra])]
    for asked in map(Requirement, wanted):
        pin = found.get(canonicalize_name(asked.name), "nothing")
        assert pin != "nothing", f"make lock: {name} has no {asked.name}"
        assert asked.specifier.contains(pin), f"make lock: {asked} is locked to {pin}"


@by_lock
def test_every_file_has_a_digest(name: str) -> None:
    for line in lines(name):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


@by_python
def test_an_image_has_what_the_tests_ran_with(python: str) -> None:
    assert pins("image.txt", python).items() <= pins("development.txt", python).items()
