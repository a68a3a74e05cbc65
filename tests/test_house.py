"""The rules of the house: rooms and functions that a person can overlook, and no circles."""

import ast
from collections import Counter
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


MOST_PARAMETERS = 7
MOST_IMPORTS = 25  # of modules of the house


def imported(path: Path) -> set[str]:
    """List the modules of the house that a module imports, also inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{each.name}" for each in node.names} & MODULES.keys()
            found |= parts or ({node.module} & MODULES.keys())
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names} & MODULES.keys()
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def late_constants(path: Path) -> Iterator[str]:
    """Yield the constants that begin after the second definition, and name none of the module's."""
    body, seen, named = ast.parse(path.read_text()).body, 0, set[str]()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            seen += 1
            named.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            used = {each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)}
            if isinstance(target, ast.Name) and target.id.isupper():
                if used & named:
                    named.add(target.id)  # a table of what the module defines
                elif seen > 1:
                    yield target.id


def test_constants_stand_before_the_second_definition() -> None:
    assert not {name: late for name, path in MODULES.items() if (late := [*late_constants(path)])}


def test_a_class_has_a_name_of_its_own() -> None:
    names = Counter(
        node.name
        for path in MODULES.values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def test_nothing_outside_smears_imports_smears() -> None:
    """Not even inside a function; what the wing adds to the core is found by its name."""
    for name, path in MODULES.items():
        if ".smears." not in f"{name}.":
            assert not [each for each in imported(path) if ".smears" in each], name


def test_a_room_has_at_most_fifteen_modules() -> None:
    for room in {path.parent for path in MODULES.values()}:
        assert len(list(room.glob("*.py"))) <= 15 + (room / "__init__.py").exists(), room


def test_a_module_has_at_most_four_hundred_lines() -> None:
    for name, path in MODULES.items():
        assert len(path.read_text().splitlines()) <= 400, name


def test_a_function_has_at_most_sixty_lines_and_seven_parameters() -> None:
    for name, path in MODULES.items():
        for node in functions(path):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{name}: {node.name}"
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            own = [each for each in given if each.arg not in ("self", "cls")]
            assert len(own) <= MOST_PARAMETERS, f"{name}: {node.name}"


def test_a_module_imports_at_most_twenty_five_of_ours() -> None:
    for name, path in MODULES.items():
        assert len(imported(path)) <= MOST_IMPORTS, name


def test_no_module_imports_another_in_a_circle() -> None:
    TopologicalSorter({name: imported(path) for name, path in MODULES.items()}).prepare()
