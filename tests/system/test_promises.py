"""Promises about the code as a whole."""

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import python

SOURCES = sorted(
    path for room in ("flows", "tasks", "storage") for path in (ROOT / room).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_is_loaded_from_data(path: Path) -> None:
    """Pickle in any guise could run what a store or a weights file says."""
    text = path.read_text()
    assert not re.search(r"\b(pickle|joblib|cloudpickle|dill|marshal)\b\.?load|import pickle", text)
    assert not re.search(r"\beval\(|\bexec\(|allow_pickle=True", text.replace(".eval(", ""))
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call


def test_workers_never_talk_to_prefect() -> None:
    """What is shipped to a worker imports no Prefect, and of the flows nothing but other jobs."""
    shipped = [path for path in SOURCES if "flows" not in path.parts[len(ROOT.parts) :]]
    jobs = [path for path in SOURCES if path.parent == ROOT / "flows" / "jobs"]
    assert jobs
    for path in shipped + jobs:
        imported = re.findall(r"^\s*(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE)
        for module in imported:
            assert not module.startswith("prefect"), path
            # The settings of a worker's machine say whose networks it may import.
            allowed = ("flows.jobs", "flows.settings", "flows.extensions")
            assert not module.startswith("flows") or module.startswith(allowed), path


@pytest.mark.parametrize("flow", ["screen", "fit"])
def test_a_coordinator_need_not_wait_for_what_only_workers_run(flow: str) -> None:
    """It imports all that comes back from a worker, too."""
    program = f"import sys, flows.{flow}, flows.smears.jobs.drawings; print(*sys.modules)"
    done = python("-c", program)
    assert not {"torch", "timm", "openvino", "sklearn", "prefect"} & set(done.stdout.split())
