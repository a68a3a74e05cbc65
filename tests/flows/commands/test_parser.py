"""Words behind a command, taken apart."""

from typing import Any

import pytest

from flows.commands.parser import command_parser, read
from flows.options.commands import COMMANDS, SELDOM
from flows.settings import Settings, UsageError


@pytest.mark.parametrize(
    ("name", "typed", "own", "settings"),
    [
        (
            "fit",
            ["--images", "a,b", "--images=c", "--batch", "x", "--workers", "3"],
            {"images": ["a,b", "c"], "batch": "x"},
            {"workers": "3"},
        ),
        ("train", ["--taps", "a,b", "--taps", "c"], {"taps": ["a", "b", "c"]}, {}),
        ("screen", ["--force", "--no-wait"], {"force": True, "wait": False}, {}),
        (
            "screen",
            ["--field-limits.least-cells", "3", "--field-limits.most-dark", ".1"],
            {},
            {"field_limits": {"least_cells": "3", "most_dark": ".1"}},
        ),
        ("query", ["--format", "csv", "SELECT 1"], {"format": "csv", "sql": "SELECT 1"}, {}),
        ("review import", ["sheet.csv", "--quiet"], {"file": "sheet.csv"}, {"quiet": True}),
        ("data malaria", ["--to", "d", "--from", "f"], {"to": "d", "from": "f"}, {}),
        ("status", [], {}, {}),
    ],
)
def test_options_are_those_of_the_command_and_settings(
    name: str, typed: list[str], own: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert read(name, typed) == (own, settings, False)
    assert read(name, ["--json", *typed])[2]


@pytest.mark.parametrize(
    ("name", "typed", "says"),
    [
        ("screen", "--imges x", "unknown option --imges; did you mean --images?"),
        ("screen", "--imag x", "unknown option --imag; did you mean --images?"),
        ("train", "--workers 3", "unknown option --workers; see slidewatch train --help"),
        ("train", "--rate 0.1", "--rate is no option any more: training's peak learning rate is"),
        ("query", "a b", "unexpected 'b'; see slidewatch query --help"),
        ("query", "", "the following arguments are required: SQL"),
        ("segment", "--into cell", "--into: invalid choice: 'cell'"),
        ("fit", "--images", "--images: expected one argument"),
    ],
)
def test_what_cannot_be_understood_is_one_line(name: str, typed: str, says: str) -> None:
    with pytest.raises(UsageError) as found:
        read(name, typed.split())
    assert str(found.value).startswith(says)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "shown", "hidden"),
    [
        ("train", ["--images", "--store"], ["--workers", "--alpha", "--field-limits.least-cells"]),
        ("query", ["--format", "--store"], ["--cluster", "--shard-rows"]),
        ("schema", ["--json"], ["--store"]),
        ("fit", ["--alpha", "--cluster", "--shard-rows"], ["--metrics", "--detectable-percent"]),
        ("segment", ["--field-limits.most-packed"], ["--field-limits.most-dark", "--shard-rows"]),
        ("screen", ["--field-limits.most-dark", "--metrics"], ["--alpha"]),
    ],
)
def test_a_command_shows_the_options_that_it_uses(
    name: str, shown: list[str], hidden: list[str]
) -> None:
    text = command_parser(name).format_help()
    assert all(option in text for option in shown)
    assert not any(option in text for option in hidden)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_the_options_of_the_command(name: str) -> None:
    text = command_parser(name).format_help()
    titles = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    own = ["options of this command:"] if COMMANDS[name].options.model_fields else []
    assert titles[: len(own)] == own
    # What nearly nobody sets comes last.
    assert titles[-1] in {"messages:", "for experts:"}


def test_what_is_seldom_needed_comes_last() -> None:
    common, _, seldom = command_parser("screen").format_help().partition("for experts:")
    assert "--site" in common
    assert "--json" in common
    assert {"--shard-rows", "--field-limits.most-dark"} <= set(seldom.split())
    assert "--shard-rows" not in common
    known = {name for command in COMMANDS.values() for name in command.options.model_fields}
    assert known | set(Settings.model_fields) >= SELDOM
