"""Words behind a command, taken apart."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.commands.parser import in_order, make_app, read
from flows.options.commands import COMMANDS, PARTS
from flows.settings import UsageError
from storage.store import Store
from tests.support.batches import freeze, manifest
from tests.support.options import options_of


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (
            "fit --images a,b --images=c --batch x --workers 3",
            {"images": ["a,b", "c"], "batch": "x", "workers": "3"},
        ),
        ("train --images i --taps a --taps b", {"images": ["i"], "taps": ["a", "b"]}),
        ("screen a b --force", {"images": ["a", "b"], "force": True}),
        ("screen --force a", {"images": ["a"], "force": True}),
        ("screen --images i --batch b --as cells --force", {"taken_as": "cells", "force": True}),
        ("look p.jpg --no-browser", {"photo": "p.jpg", "browser": False}),
        ("query --format csv FROM", {"format": "csv", "sql": "FROM"}),
        ("review import sheet.csv --quiet", {"file": "sheet.csv", "quiet": True}),
        ("status", {}),
    ],
)
def test_options_are_those_of_the_command_and_settings(typed: str, given: dict[str, Any]) -> None:
    found = read(make_app(), typed.split())
    assert {name: found[name] for name in given} == given
    assert read(make_app(), in_order(["--json", *typed.split()])) == found | {"json": True}


def test_a_word_that_begins_with_a_dash_stands_behind_two() -> None:
    assert read(make_app(), ["patient", "--batch", "b", "--to", "t", "--", "-9"])["name"] == "-9"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("schema --quite", "Unknown option: --quite. Did you mean --quiet?"),
        ("screen --imges x --batch b", "Unknown option: --imges. Did you mean --images?"),
        ("screen --imag x --batch b", "Unknown option: --imag. Did you mean --images?"),
        ("train --images i --workers 3", "Unknown option: --workers"),
        ("query a b", "b: too many values"),
        ("query", "SQL: a value is missing"),
        ("screen --images i --as cell", '"cell" for --as. Choose from: "cells"'),
        ("fit --images", "--images: a value is missing"),
        ("query a --seconds 3 --seconds 4", "--seconds specified multiple times"),
        ("patient -x", "a name that begins with - stands last, after --: slidewatch patient -- -x"),
        ("patient -- -rf --batch B", "what follows -- is a name: give options before it"),
        ("look caf\udce9.png", "--photo: it is not UTF-8: rename it, or set PYTHONUTF8=1"),
        ("look --x.png --quiet", "after --: slidewatch look -- --x.png"),
    ],
)
def test_what_cannot_be_understood_is_one_line(typed: str, says: str) -> None:
    with pytest.raises(UsageError) as found:
        read(make_app(), typed.split())
    assert says in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "shown", "hidden"),
    [
        ("train", {"--images", "--store"}, {"--workers", "--alpha"}),
        ("query", {"--format", "--store"}, {"--cluster", "--shard-rows"}),
        ("schema", {"--json", "--quiet", "--debug", "--logs"}, {"--store"}),
        ("fit", {"--alpha", "--cluster", "--scheduler"}, {"--shard-rows", "--first-worker"}),
    ],
)
def test_a_command_has_its_own_options_and_the_settings_that_change_from_call_to_call(
    name: str, shown: set[str], hidden: set[str]
) -> None:
    assert shown <= options_of(name)
    assert not hidden & options_of(name)


def test_commands_of_two_words_have_a_first_word_with_a_meaning() -> None:
    assert set(PARTS) == {name.split()[0] for name in COMMANDS if " " in name}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_a_shell_knows_every_command_and_option(shell: Any) -> None:
    script = make_app().generate_completion(shell=shell)
    for name in COMMANDS:
        assert all(word in script for word in name.split())
        # fish writes an option without its dashes.
        assert all(option.removeprefix("--") in script for option in options_of(name))
    assert "slides" in script  # a word to choose from


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["scr"], {"screen"}),
        (["review", ""], {name.split()[1] for name in COMMANDS if name.startswith("review")}),
        (["screen", "--det"], {"--detector"}),
        (["screen", "--as", ""], {"cells", "fields", "slides"}),
    ],
)
def test_bash_completes_commands_options_and_words(typed: list[str], offered: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in ["slidewatch", *typed])
    program = f"""{make_app().generate_completion(shell="bash")}
COMP_WORDS=({words}); COMP_CWORD={len(typed)}; COMP_LINE="{" ".join(["slidewatch", *typed])}"
_slidewatch 2>/dev/null; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash"], input=program, capture_output=True, text=True, check=True)
    assert {line.strip() for line in done.stdout.split()} - {"--help", "-h"} == offered


def test_a_shell_completes_names_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    freeze(store, manifest(1), "night-7")
    store.write_bytes(b"{}", "detectors", "net-v0001", "card.json")
    monkeypatch.setenv("SLIDEWATCH_STORE", store.url)
    for option, name in {"--batch": "night-7", "--detector": "net-v0001", "--model": None}.items():
        with pytest.raises(SystemExit) as end:
            read(make_app(), ["__complete", "fit" if option == "--model" else "screen", option, ""])
        assert end.value.code == 0
        lines = capsys.readouterr().out.split("begin\n")[1].splitlines()
        assert lines == ([name] if name else [])
