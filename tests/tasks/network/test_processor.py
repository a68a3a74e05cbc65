"""OpenVINO is imported without its telemetry, and a graph that it does not read is left alone."""

import locale
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.network.backbones import build
from tasks.network.conversion import graph_arrays
from tasks.network.processor import DESCRIPTION, Graph, by_openvino, noise, passes
from tasks.network.spec import NetworkSpec
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


def test_a_graph_that_openvino_does_not_read_is_left_to_pytorch(
    spec: NetworkSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    torch.manual_seed(0)
    arrays = graph_arrays(build(spec).eval())
    assert by_openvino(spec, lambda: Graph.from_arrays(arrays), kept=False) is not None
    arrays[DESCRIPTION] = arrays[DESCRIPTION][:-100]
    assert by_openvino(spec, lambda: Graph.from_arrays(arrays), kept=False) is None
    assert "OpenVINO does not take timm:test_resnet" in caplog.text


def test_a_kept_graph_computes_the_same_and_is_made_again_where_it_was_damaged(
    spec: NetworkSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, pixels = Graph.from_arrays(graph_arrays(build(spec).eval())).network, noise(spec)
    expected = passes(spec, graph)(pixels)
    for folder in ("cache", "cache", "cache", "file"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / folder))
        found = passes(spec, graph, kept=True)(pixels)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        (kept,) = (tmp_path / "cache").glob("slidewatch/*")
        if folder == "cache" and kept.chmod(0o600) is None:
            kept.write_bytes(kept.read_bytes()[:-1000])
        (tmp_path / "file").touch()  # where nobody can make a folder


def test_threads_that_compile_leave_the_locale_alone(
    spec: NetworkSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graphs = [Graph.from_arrays(graph_arrays(build(spec).eval())).network for _ in range(2)] * 20
    before = locale.setlocale(locale.LC_CTYPE)
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda graph: passes(spec, graph, kept=True), graphs))
    assert locale.setlocale(locale.LC_CTYPE) == before
