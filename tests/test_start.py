"""Tests of a formula start in a second: what they would have to wait for is not imported."""

import re
import subprocess
import sys

from tests.support.paths import ROOT

PROGRAM = """
import sys, pytest
failed = pytest.main(["-q", "--setup-only", "-p", "no:cacheprovider", "tests/tasks/detector"])
heavy = {"torch", "prefect", "distributed", "moto"} & sys.modules.keys()
sys.exit(f"imported {sorted(heavy)}" if heavy else failed)
"""


def test_tests_of_the_detector_import_no_network_flow_cluster_or_server() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_tests_import_from_tests_support_and_not_from_each_other() -> None:
    tests = ROOT / "tests"
    shared = re.compile(r"from tests\.(?:\w+\.)*(?:test_\w+|conftest) import")
    files = [path for path in tests.rglob("*.py") if shared.search(path.read_text())]
    assert [str(path.relative_to(tests)) for path in files] == []
