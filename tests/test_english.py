"""Everything that a person reads is plain English: no phrase of `tests/support/english.py`."""

import re
from functools import cache

import pytest

from tests.support.english import RULES, Find, Text, finds, plain, prose
from tests.support.paths import ROOT

# Folders still to be rewritten.
LATER = (
    "flows/",
    "tasks/counting/",
    "tasks/detector/witnesses.py",
    "tasks/evaluation/results.py",
    "tasks/images/",
    "tasks/network/",
    "tasks/second_look/",
    "tasks/segmentation/",
    "tasks/visualisation/",
    "storage/batches/",
    "deploy/",
)


@cache
def found() -> list[Find]:
    return list(finds(prose()))


def examples() -> list[tuple[list[str], str]]:
    """The rows of the guide's table: phrases to avoid, and the words to use instead."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    table = guide.split("| avoid | write |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.strip("|").split(" | ") for row in table.splitlines()]
    return [(re.findall(r"`([^`]+)`", wrong), plain(right)) for wrong, right in rows]


def rules(words: str) -> set[str]:
    return {find.rule.name for find in finds(iter([Text("a.py", 1, words, docstring=True)]))}


def test_nothing_reads_as_if_translated() -> None:
    rest = [str(find) for find in found() if not find.path.startswith(LATER)]
    assert not rest, "\n".join(rest)


@pytest.mark.parametrize(("wrong", "right"), examples())
def test_the_guide_gives_examples(wrong: list[str], right: str) -> None:
    assert wrong
    assert all(rules(each) for each in wrong)
    assert not rules(right)


def test_each_rule_has_an_example_in_the_guide() -> None:
    shown = {name for wrong, _ in examples() for each in wrong for name in rules(each)}
    assert {rule.name for rule in RULES} <= shown
