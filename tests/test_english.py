"""Everything that a person reads is plain English: no phrase of `tests/support/english.py`."""

import re

import pytest

from tests.support.english import RULES, Text, finds, plain, prose
from tests.support.paths import ROOT


def examples() -> list[tuple[list[str], str]]:
    """The rows of the guide's table: phrases to avoid, and the words to use instead."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    table = guide.split("| avoid | write |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.strip("|").split(" | ") for row in table.splitlines()]
    return [(re.findall(r"`([^`]+)`", wrong), plain(right)) for wrong, right in rows]


def rules(words: str) -> set[str]:
    return {find.rule.name for find in finds(iter([Text("a.py", 1, words, docstring=True)]))}


def test_nothing_reads_as_if_translated() -> None:
    found = [str(find) for find in finds(prose())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("wrong", "right"), examples())
def test_the_guide_gives_examples(wrong: list[str], right: str) -> None:
    assert wrong
    assert all(rules(each) for each in wrong)
    assert not rules(right)


def test_each_rule_has_an_example_in_the_guide() -> None:
    shown = {name for wrong, _ in examples() for each in wrong for name in rules(each)}
    assert {rule.name for rule in RULES} <= shown
