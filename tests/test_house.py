"""The rules of the house: rooms and functions that a person can overlook, and no circles."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.texts

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("flows", "tasks", "storage")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(path: Path) -> Iterator[str]:
    """List the modules of the house that a module imports as it is loaded."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
            yield from names & MODULES.keys()


def test_a_room_has_at_most_fifteen_modules() -> None:
    for room in {path.parent for path in MODULES.values()}:
        assert len(list(room.glob("*.py"))) <= 15 + (room / "__init__.py").exists(), room


def test_a_function_has_at_most_sixty_lines() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{name}: {node.name}"


def test_no_module_imports_another_in_a_circle() -> None:
    TopologicalSorter({name: set(imported(path)) for name, path in MODULES.items()}).prepare()
