"""Tests of a formula and commands start soon: what they would have to wait for is not imported."""

import json
import re

import pytest

from tests.support.paths import ROOT
from tests.support.processes import python

PROGRAM = """
import sys, pytest
failed = pytest.main(["-q", "--setup-only", "-p", "no:cacheprovider", "tests/tasks/detector"])
heavy = {"torch", "prefect", "distributed", "moto"} & sys.modules.keys()
sys.exit(f"imported {sorted(heavy)}" if heavy else failed)
"""

PYTORCH = {"torch", "torchvision", "timm"}
NETWORKS = PYTORCH | {"openvino", "sklearn"}
SLOW = NETWORKS | {"scipy", "distributed", "dask", "zarr", "matplotlib", "prefect"}
# A command's module, and what it does not import.
SPARED = {
    "flows.commands.main": SLOW | {"duckdb", "numpy", "pyarrow", "rich"},
    "flows.commands.status": SLOW | {"duckdb"},
    "flows.commands.query": SLOW,
    # It works without Dask, and a photograph's page has no charts.
    "flows.smears.commands.look": (SLOW - {"scipy", "zarr"})
    | {"duckdb", "scipy.stats", "pyarrow.dataset"},
}
# Modules that neither a command that screens nor its workers import.
UNUSED = {"prefect", "scipy.stats", "pydicom", "duckdb", "sklearn", "matplotlib"}
SCREENING = """
import json, sys
import flows.smears.night
from flows.cluster.client import open_client
from flows.settings import Settings
import pyarrow as pa

def modules():
    pa.array([1]).to_pylist()
    return sorted(sys.modules)

if __name__ == "__main__":
    with open_client(Settings(workers=1)) as client:
        print(json.dumps([modules(), *client.run(modules).values()]))
    assert len(pa.table({"a": [1, 2]}).to_pandas()) == 2
"""


@pytest.mark.parametrize("module", SPARED)
def test_a_command_imports_only_what_it_needs(module: str) -> None:
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    assert SPARED[module] & set(json.loads(python("-c", program, cwd=ROOT).stdout)) == set()


def test_a_command_that_screens_and_its_workers_import_only_what_they_need() -> None:
    command, worker = map(set, json.loads(python("-c", SCREENING, cwd=ROOT).stdout))
    assert command & (UNUSED | NETWORKS) == worker & (UNUSED | PYTORCH) == set()
    assert "openvino" in worker


def test_tests_of_the_detector_import_no_network_flow_cluster_or_server() -> None:
    python("-c", PROGRAM, cwd=ROOT)


def test_tests_import_from_tests_support_and_not_from_each_other() -> None:
    tests = ROOT / "tests"
    shared = re.compile(r"from tests\.(?:\w+\.)*(?:test_\w+|conftest) import")
    files = [path for path in tests.rglob("*.py") if shared.search(path.read_text())]
    assert [str(path.relative_to(tests)) for path in files] == []
