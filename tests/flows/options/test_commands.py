"""Options are models: what calls a flow is checked by mypy, and what is given by pydantic."""

import importlib
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from pydantic import ValidationError

from flows.options.commands import COMMANDS, TOLD
from flows.options.flows import Attack, Fit
from flows.settings import Settings
from tasks.smears.evaluation.treatments.attacks import STRENGTHS
from tests.support.paths import ROOT
from tests.support.processes import python

MISSPELT = """
from flows.options.flows import Screen

Screen(images="cells", batch="b")
Screen(imagez="cells", bacth="b")
"""


def test_mypy_refuses_an_option_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "misspelt.py").write_text(MISSPELT)
    done = python("-m", "mypy", tmp_path / "misspelt.py", code=None, cwd=ROOT)
    errors = [
        line.partition("error: ")[2] for line in done.stdout.splitlines() if "error: " in line
    ]
    assert errors == [
        'Unexpected keyword argument "imagez" for "Screen"; did you mean "images"?  [call-arg]',
        'Unexpected keyword argument "bacth" for "Screen"; did you mean "batch"?  [call-arg]',
    ]


def test_pydantic_refuses_it_too() -> None:
    with pytest.raises(ValidationError, match="size\n  Extra inputs are not permitted"):
        Fit(images="cells", batch="b", size=3)  # type: ignore[call-arg]


def test_a_command_is_a_function_of_its_options_and_settings() -> None:
    for command in COMMANDS.values():
        module, _, attribute = command.function.partition(":")
        function = getattr(importlib.import_module(module), attribute)
        hints = get_type_hints(function.fn if command.flow else function)
        del hints["return"]
        assert hints == {"options": command.options, "settings": Settings}, command.function
        assert all(field.description for field in command.options.model_fields.values())


def test_settings_that_are_options_have_a_meaning_and_no_second_one() -> None:
    for command in COMMANDS.values():
        options = {*command.settings, *TOLD}
        assert options <= set(Settings.model_fields)
        assert not options & set(command.options.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_the_attacks_to_choose_from_are_those_that_there_are() -> None:
    assert get_args(Attack) == tuple(STRENGTHS)
