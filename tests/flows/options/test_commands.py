"""Options are models: what calls a flow is checked by mypy, and what is given by pydantic."""

import importlib
from typing import get_args, get_type_hints

from flows.options.commands import COMMANDS, TOLD
from flows.options.flows import Attack
from flows.settings import Settings
from tasks.smears.evaluation.treatments import STRENGTHS


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
