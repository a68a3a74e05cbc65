"""Promises about the code as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for room in ("flows", "tasks", "storage") for path in (ROOT / room).glob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_code_is_loaded_from_data(path: Path) -> None:
    """Pickle in any guise could run what a store or a weights file says."""
    text = path.read_text()
    assert not re.search(r"\b(pickle|joblib|cloudpickle|dill|marshal)\b\.?load|import pickle", text)
    assert not re.search(r"\beval\(|\bexec\(|allow_pickle=True", text.replace(".eval(", ""))
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call


def test_workers_never_talk_to_prefect() -> None:
    """What is shipped to a worker imports neither Prefect nor a flow."""
    for path in SOURCES:
        if path.parent.name != "flows":
            assert not re.search(
                r"^\s*(from|import) (prefect|flows)\b", path.read_text(), re.MULTILINE
            )


@pytest.mark.parametrize("flow", ["screen", "fit"])
def test_a_coordinator_need_not_wait_for_what_only_workers_run(flow: str) -> None:
    """It imports all that comes back from a worker, too."""
    program = f"import sys, flows.{flow}, flows.jobs.thumbnails; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"torch", "timm", "openvino", "sklearn"} & set(done.stdout.split())
