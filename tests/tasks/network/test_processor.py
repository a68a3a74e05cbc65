"""OpenVINO is imported without its telemetry, whichever module of a network comes first."""

from pathlib import Path

import pytest

from tests.support.processes import python

FOUND = """
import sys, tasks.network.{module}
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry.")))
"""
MODULES = ("processor", "tuning", "conversion")


@pytest.mark.parametrize("module", MODULES)
def test_openvino_is_imported_without_its_telemetry(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert python("-c", FOUND.format(module=module)).stdout == "[]\n"
    assert not list(tmp_path.iterdir())  # it keeps a number of the user there
