"""Tests of the rules for benchmarks: each can fail, and kept figures make the tables."""

import ast
import json
from pathlib import Path

import pytest

from tests.benchmarks import figures
from tests.benchmarks.results import BLOCK, DOCUMENT, KEPT, table_of, with_tables
from tests.support.measuring import beyond_bound, figure

FILES = sorted(Path(__file__).parent.glob("test_*.py"))


def can_fail(node: ast.AST, functions: dict[str, ast.FunctionDef], seen: frozenset[str]) -> bool:
    """Return whether code asserts or bounds a ratio; its inner functions prove little."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(each, ast.Assert):
            return True
        if isinstance(each, ast.Call):
            name = ast.unparse(each.func)
            if name == "record" and any(word.arg == "bound" for word in each.keywords):
                return True
            if name.endswith("raises") or name.startswith("np.testing.assert"):
                return True
            helper = functions.get(name)
            if helper and name not in seen and can_fail(helper, functions, seen | {name}):
                return True
        if can_fail(each, functions, seen):
            return True
    return False


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_benchmark_can_fail(file: Path) -> None:
    tree = ast.parse(file.read_text())
    functions = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
    idle = [
        name
        for name, each in functions.items()
        if name.startswith("test_") and not can_fail(each, functions, frozenset())
    ]
    assert not idle, f"they only print: {idle}"


def test_a_ratio_says_by_how_much_ours_is_better_and_is_taken_round_by_round() -> None:
    time = figure("time", "s", ours=[1.0, 2.0, 4.0], rival=[2.0, 2.0, 2.0])
    assert time["ratio"] == {"median": 1.0, "min": 0.5, "max": 2.0}
    speed = figure("speed", "/s", ours=[6.0], rival=[2.0], higher_is_better=True)
    assert speed["ratio"]["median"] == 3.0


def test_a_ratio_below_its_bound_is_told() -> None:
    slow = figure("time", "s", ours=[4.0], rival=[1.0], bound=0.5)
    assert (beyond_bound(slow) or "").startswith("time: ratio 0.25, at least 0.5 wanted")
    assert beyond_bound(figure("time", "s", ours=[1.5], rival=[1.0], bound=0.5)) is None
    assert beyond_bound(figure("time", "s", ours=[4.0], rival=[1.0])) is None
    few = figure("recall", "", ours=[0.6], limit=0.8, bound=1.0, higher_is_better=True)
    assert beyond_bound(few) is not None
    assert beyond_bound(figure("alarms", "", ours=[0.0], limit=0.05, bound=0.5)) is None


def test_the_tables_of_the_document_are_those_of_the_kept_figures() -> None:
    document = DOCUMENT.read_text()
    assert with_tables(document) == document
    assert sorted(found[1] for found in BLOCK.findall(document)) == sorted(
        file.stem for file in KEPT.glob("*.jsonl")
    )


def test_a_table_says_how_it_was_measured(tmp_path: Path) -> None:
    about = {"file": "test_x.py", "version": "0.4.0", "day": "2026-11-27", "cpus": 2, "seed": 0}
    rows = [
        figure("a job", "ms", ours=[2.0], rival=[3.0]) | about,
        figure("recall", "", ours=[0.9], limit=0.8, higher_is_better=True) | about,
        figure("alone", "s", ours=[1.0]) | about,
    ]
    lines = table_of(rows).splitlines()
    assert lines[0] == ("0.4.0, 11-27, 2 cores, seed 0: `pytest -m benchmark -s` of `test_x.py`.")
    assert lines[-2:] == ["| a job | 2 ms | 3 | 1.50 |", "| recall | 0.9 | limit 0.8 | 1.12 |"]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = with_tables("<!-- results: x -->\nold\n<!-- end -->", tmp_path)
    assert told == f"<!-- results: x -->\n{table_of(rows)}<!-- end -->"


def test_readme_and_the_detector_show_the_figures_that_were_measured() -> None:
    kept = json.loads(figures.KEPT.read_text())
    assert kept.keys() == figures.FIGURES.keys()
    readme, of_detector = figures.README.read_text(), figures.SHIPPED.read_text()
    assert figures.readme_with(readme, kept) == readme
    assert figures.shipped_with(of_detector, kept) == of_detector


def test_a_figure_is_measured_again_once_the_code_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "KEPT", tmp_path / "figures.json")
    alone = figures.FIGURES["alarms"]._replace(measure=lambda work: {"mean": 0.05})
    monkeypatch.setitem(figures.FIGURES, "alarms", alone)
    ((name, row),) = figures.measured(tmp_path, ["alarms"])
    assert (name, row["values"]) == ("alarms", {"mean": 0.05})
    figures.KEPT.write_text(json.dumps({name: row}))
    assert list(figures.measured(tmp_path, ["alarms"])) == []
    figures.KEPT.write_text(json.dumps({name: row | {"code": "older"}}))
    assert len(list(figures.measured(tmp_path, ["alarms"]))) == 1
