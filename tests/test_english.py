"""Everything that a person reads is plain English: no phrase of `tests/support/english.py`."""

import re
from functools import cache

import pytest

from tests.support.english import RULES, Find, Text, finds, plain, prose
from tests.support.paths import ROOT

# Folders and files still to be rewritten.
LATER = (
    "deploy/README.md",
    "flows/commission.py",
    "flows/evaluate.py",
    "flows/federation.py",
    "flows/fit.py",
    "flows/jobs/scoring/cells.py",
    "flows/jobs/second_look.py",
    "flows/jobs/shard.py",
    "flows/nightly.py",
    "flows/outcome.py",
    "flows/prune.py",
    "flows/screen.py",
    "flows/segment.py",
    "flows/settings.py",
    "flows/stages/calibration.py",
    "flows/stages/counting/errors.py",
    "flows/stages/pages.py",
    "flows/stages/publish.py",
    "flows/train.py",
    "storage/batches/manifests.py",
    "storage/batches/nights.py",
    "storage/batches/segmentations.py",
    "tasks/counting/limits.py",
    "tasks/detector/witnesses.py",
    "tasks/images/decoding.py",
    "tasks/network/backbones.py",
    "tasks/network/classifier.py",
    "tasks/network/features.py",
    "tasks/network/folding.py",
    "tasks/network/inference.py",
    "tasks/network/laboratories.py",
    "tasks/network/training.py",
    "tasks/second_look/choice.py",
    "tasks/second_look/rows.py",
    "tasks/segmentation/",
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
