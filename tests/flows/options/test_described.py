"""Functions of commands have the options that the command line shows."""

import importlib
import inspect
from typing import Annotated, get_args

import pytest
from pydantic import Field

from flows.options.commands import COMMANDS, GROUPS, TOLD
from flows.options.described import Options, described
from flows.options.flows import Attack
from flows.settings import Settings
from tasks.evaluation.treatments.attacks import ATTACKS


class Cut(Options):
    """Cut it."""

    into: Annotated[int, Field(ge=2, description="so many parts")]
    name: Annotated[str | None, Field(description="of it")] = None


def test_a_function_gets_the_descriptions_and_limits_of_its_options() -> None:
    @described(Cut)
    def cut(name: str | None = None, *, into: int, settings: Settings | None = None) -> None: ...

    into = inspect.signature(cut).parameters["into"].annotation
    assert get_args(into)[0] is int
    assert get_args(into)[1].description == "so many parts"


def other_name(into: int, title: str | None = None) -> None: ...


def other_type(into: float, name: str | None = None) -> None: ...


def other_default(into: int, name: str | None = "cells") -> None: ...


def one_more(into: int, name: str | None = None, size: int = 3) -> None: ...


@pytest.mark.parametrize(
    ("function", "differs"),
    [
        (other_name, "name, title"),
        (other_type, "into"),
        (other_default, "name"),
        (one_more, "size"),
    ],
)
def test_a_function_with_other_parameters_is_refused(function: object, differs: str) -> None:
    with pytest.raises(TypeError, match=f"Cut differ in {differs}: give both the same"):
        described(Cut)(function)  # type: ignore[type-var]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_described_function_and_says_the_same(name: str) -> None:
    command = COMMANDS[name]
    module, _, attribute = command.function.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    said = inspect.getdoc(function) or ""
    assert " ".join(said.split("\n\n")[0].split()) == command.summary
    parameters = inspect.signature(function).parameters
    assert set(parameters) == {*command.options.model_fields, "settings"}
    for option, field in command.options.model_fields.items():
        assert field.description
        assert parameters[option].annotation != field.annotation  # it is described
    # Arguments of flows are checked; `look` and `demo` run others.
    assert hasattr(function, "raw_function") == (command.flow and name not in {"demo", "look"})


def test_every_setting_is_in_one_group_and_used_by_a_command() -> None:
    grouped = [*TOLD, *(name for names in GROUPS.values() for name in names)]
    # What deployments may name is said in the settings of a worker's machine, and is no option.
    options = set(Settings.model_fields) - {"finders", "networks"}
    assert sorted(grouped) == sorted(options)
    used = {name for command in COMMANDS.values() for name in command.settings}
    assert {name.partition(".")[0] for name in used} | set(TOLD) == options


def test_the_attacks_to_choose_from_are_those_that_there_are() -> None:
    assert get_args(Attack) == tuple(ATTACKS)
