"""The documents that a person reads first: their links lead somewhere, their commands exist."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.options.commands import COMMANDS
from tests.support.options import options_of
from tests.support.paths import ROOT

DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path
    for folder in ("", "flows", "tasks", "storage", "tests/benchmarks", "deploy")
    for path in sorted((ROOT / folder).glob("*.md"))
}
CURRENT = [name for name in DOCUMENTS if name != "CHANGELOG.md"]  # it names options that are gone
EVERY = pytest.mark.parametrize("name", DOCUMENTS)


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a document in a link."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


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


@EVERY
def test_links_lead_somewhere(name: str) -> None:
    path = DOCUMENTS[name]
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if urlsplit(link).scheme:
            continue
        place, _, anchor = link.partition("#")
        target = path.parent / place if place else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", CURRENT)
def test_a_command_has_the_options_that_it_is_given(name: str) -> None:
    for line in commands(DOCUMENTS[name].read_text()):
        known = {*options_of(name_of(line) or ""), "--help"}
        assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", line)) <= known, line


@pytest.mark.parametrize("name", CURRENT)
def test_a_file_that_is_named_exists(name: str) -> None:
    path = DOCUMENTS[name]
    for file in re.findall(r"`([\w/]+/[\w/]*\w\.py)`", path.read_text()):
        assert (path.parent / file).exists() or (ROOT / file).exists(), file


def test_the_guides_have_all_commands() -> None:
    for name, title in {"README.md": "| to | use |", "flows/README.md": "| command |"}.items():
        table = DOCUMENTS[name].read_text().split(title)[1].split("\n\n")[0]
        named = [name_of(each) for each in re.findall(r"`([^`]+)`", table)]
        assert set(COMMANDS) - set(named) == set(), name


def test_the_readme_is_short() -> None:
    assert len(DOCUMENTS["README.md"].read_text().splitlines()) <= 150
