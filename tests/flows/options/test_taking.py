"""Functions of commands have the options that the command line shows."""

import importlib
import inspect
from typing import Annotated, Any, get_args

import pytest
from pydantic import Field, ValidationError

from flows.monitoring.prefect_runs import prefect_flow
from flows.options.commands import COMMANDS, TOLD
from flows.options.flows import Attack
from flows.options.taking import Options, takes
from flows.settings import Settings
from tasks.evaluation.treatments.attacks import ATTACKS


class Cut(Options):
    """Cut it."""

    into: Annotated[int, Field(ge=2, description="so many parts")]
    name: Annotated[str | None, Field(description="of it")] = None


@takes(Cut, run_name="cut {into}")
def cut(options: Cut, settings: Settings) -> tuple[Cut, str]:
    """Cut it."""
    return options, settings.store


def test_a_function_is_called_with_its_options_one_by_one() -> None:
    assert cut(into=2, settings=Settings(store="s")) == (Cut(into=2), "s")
    assert cut(3, "b") == (Cut(into=3, name="b"), "store")


def test_a_signature_has_the_descriptions_and_limits_of_the_options() -> None:
    parameters = inspect.signature(cut).parameters
    assert list(parameters) == ["into", "name", "settings"]
    kind, field = get_args(parameters["into"].annotation)[:2]
    assert (kind, field.description) == (int, "so many parts")
    assert parameters["into"].default is inspect.Parameter.empty
    assert parameters["name"].default is None


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"into": 1}, "greater than or equal to 2"),
        ({"into": "seven"}, "valid integer"),
        ({}, "into\n  Field required"),
    ],
)
def test_values_are_checked_without_prefect_too(values: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        cut(**values)


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        cut(into=2, size=3)


def test_prefect_has_a_parameter_for_each_option() -> None:
    made = prefect_flow(cut)
    schema = made.parameters.model_dump()
    assert list(schema["properties"]) == ["into", "name", "settings"]
    assert schema["properties"]["into"]["minimum"] == 2
    assert schema["required"] == ["into"]
    assert made.flow_run_name == "cut {into}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_function_of_its_options_and_says_what_they_say_once(name: str) -> None:
    command = COMMANDS[name]
    module, _, attribute = command.function.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    assert (inspect.getdoc(function) or "").count(command.summary) == 1
    parameters = inspect.signature(function).parameters
    assert set(parameters) == {*command.options.model_fields, "settings"}
    for option, field in command.options.model_fields.items():
        assert field.description
        assert parameters[option].annotation != field.annotation  # it is described


def test_settings_that_are_options_have_a_meaning_and_no_second_one() -> None:
    for command in COMMANDS.values():
        options = {*command.settings, *TOLD}
        assert options <= set(Settings.model_fields)
        assert not options & set(command.options.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_the_attacks_to_choose_from_are_those_that_there_are() -> None:
    assert get_args(Attack) == tuple(ATTACKS)
