"""Define a command's options once, and check that its function has them as parameters.

The command line reads the definitions without importing a flow, for that takes seconds; Prefect
reads the flow's signature, which `described` gives the same descriptions and limits.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticUndefined

from tasks.images.access.addresses import holds_secret, redact

SETTINGS = "settings"  # the parameter of every command that is no option of its own
POSITIONAL = "positional"  # marks an option that is given without its name
SPELT = "spelt "  # marks one that a person writes otherwise than Python could, e.g. "spelt as"

Given = TypeVar("Given", bound=str | list[str] | None)
Function = TypeVar("Function", bound=Callable[..., Any])


class UsageError(Exception):
    """A command, or a setting, that cannot be understood as it is given."""


def without_secret(given: Given) -> Given:
    """Return addresses; ValueError where one holds a password, which would stand in reports."""
    addresses: list[str | None] = [*given] if isinstance(given, list) else [given]
    for each in addresses:
        if each and holds_secret(each):
            raise ValueError(
                f"{redact(each)} may hold no password or token, for reports and logs name it: give "
                "that in the environment or in a profile, such as AWS_PROFILE"
            )
    return given


def named_source(given: Given) -> Given:
    """Return addresses of images; ValueError where one is empty, or holds a password.

    An empty one, of a variable that is not set, would be the working folder.
    """
    for each in given if isinstance(given, list) else [given]:
        if each is not None and not each.strip():
            raise ValueError("the address of images is empty: is a variable not set?")
    return without_secret(given)


class Options(BaseModel):
    """The options of a command; the docstring says what the command does, in one sentence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def described(options: type[Options]) -> Callable[[Function], Function]:
    """Decorate a command's function, whose parameters get the options' descriptions and limits.

    Raises:
        TypeError: a parameter has another name, type or default than the option.
    """

    def decorate(function: Function) -> Function:
        wanted = {name: field.annotation for name, field in options.model_fields.items()}
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters
        found = {name: hints[name] for name in parameters if name != SETTINGS}
        differing = [
            name
            for name in {**wanted, **found}
            if wanted.get(name) != found.get(name)
            or options.model_fields[name].get_default() != _default(parameters[name])
        ]
        if differing:
            raise TypeError(
                f"{function.__module__}.{function.__name__} and {options.__name__} differ in "
                f"{', '.join(differing)}: give both the same names, types and defaults"
            )
        full = get_type_hints(options, include_extras=True)
        function.__annotations__.update({name: full[name] for name in found})
        return function

    return decorate


def _default(parameter: inspect.Parameter) -> Any:
    empty = parameter.default is inspect.Parameter.empty
    return PydanticUndefined if empty else parameter.default
