"""What people read: plain English, links that lead somewhere, commands and files that exist.

`make check` runs these.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.options.commands import COMMANDS
from tests.support.english import RULES, Text, finds, plain, prose
from tests.support.options import options_of
from tests.support.paths import ROOT

pytestmark = pytest.mark.texts

DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path
    for folder in ("", "flows", "tasks", "storage", "tests/benchmarks", "deploy")
    for path in sorted((ROOT / folder).glob("*.md"))
}
CURRENT = {name: path.read_text() for name, path in DOCUMENTS.items() if name != "CHANGELOG.md"}


def rules(words: str) -> set[str]:
    return {name for name, _ in finds([Text("a.py", 1, words, docstring=True)])}


def test_nothing_reads_as_if_translated() -> None:
    found = [place for _, place in finds(prose())]
    assert not found, "\n".join(found)


def test_the_guide_has_an_example_for_each_rule_and_better_words() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    table = guide.split("| avoid | write |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.strip("|").split(" | ") for row in table.splitlines()]
    examples = [(re.findall(r"`([^`]+)`", wrong), plain(right)) for wrong, right in rows]
    assert [wrong for wrong, _ in examples if not wrong or not all(map(rules, wrong))] == []
    assert [right for _, right in examples if rules(right)] == []
    shown = {name for wrong, _ in examples for each in wrong for name in rules(each)}
    assert {rule.name for rule in RULES} <= shown


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a document in a link."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(path: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        place, _, anchor = link.partition("#")
        target = path.parent / place if place else path
        if not urlsplit(link).scheme and not (
            target.exists() and (not anchor or anchor in anchors(target))
        ):
            yield link


def test_links_lead_somewhere() -> None:
    dead = {name: list(dead_links(path)) for name, path in DOCUMENTS.items()}
    assert {name: links for name, links in dead.items() if links} == {}


def commands(text: str) -> set[str]:
    """The commands of slidewatch that a document gives, in blocks and within lines."""
    fence = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)
    blocks = [block for language, block in fence.findall(text) if language == "sh"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`]+)`", fence.sub("", text))
    found = [re.search(r"(?<![\w/.:-])slidewatch ([a-z][^&|;#>]*)", x) for x in [*lines, *spans]]
    return {line for line in [*spans, *(each[1] for each in found if each)] if name_of(line)}


def name_of(line: str) -> str | None:
    """The command that a line begins with."""
    words = line.split()
    return next((name for k in (2, 1) if (name := " ".join(words[:k])) in COMMANDS), None)


def test_a_command_has_the_options_that_it_is_given() -> None:
    unknown = [
        (name, line)
        for name, text in CURRENT.items()
        for line in commands(text)
        if not set(re.findall(r"(?<!\S)--[a-z][\w-]*", line))
        <= {*options_of(name_of(line) or ""), "--help"}
    ]
    assert unknown == []


PLACE = re.compile(r"`((?:flows|tasks|storage|tests|deploy)/[\w./-]+|[\w./-]+/|[\w/]+/\w+\.py)`")


def test_a_file_or_folder_that_is_named_exists() -> None:
    missing = [
        (name, place)
        for name, text in CURRENT.items()
        for place in PLACE.findall(text)
        if not ((DOCUMENTS[name].parent / place).exists() or (ROOT / place).exists())
    ]
    assert missing == []


def test_the_guides_have_all_commands() -> None:
    for name, title in {"README.md": "| to | use |", "flows/README.md": "| command |"}.items():
        table = CURRENT[name].split(title)[1].split("\n\n")[0]
        named = [name_of(each) for each in re.findall(r"`([^`]+)`", table)]
        assert set(COMMANDS) - set(named) == set(), name


def test_the_readme_is_short() -> None:
    assert len(CURRENT["README.md"].splitlines()) <= 150


def test_every_test_that_the_page_on_security_names_exists() -> None:
    rows = [r for r in CURRENT["SECURITY.md"].splitlines() if r.startswith("| ") and "`test_" in r]
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(rows) >= 13
    assert named - there == set()
