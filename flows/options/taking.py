"""Define a command's options once: the command line, Prefect and the command's function read them.

The command line reads the definitions without importing a flow, which takes seconds.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict

from flows.settings import Settings, without_secret

SETTINGS = "settings"  # the parameter of every command that is no option of its own
RUN_NAME = "flow_run_name"  # an attribute of a flow's function
POSITIONAL = "positional"  # marks an option that is given without its name
SPELT = "spelt "  # marks one that a person writes otherwise than Python could, e.g. "spelt as"

Given = TypeVar("Given", bound=str | list[str] | None)
Taken = TypeVar("Taken", bound="Options")
Result = TypeVar("Result")


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

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_by_name=True
    )


def takes(
    options: type[Taken], run_name: str | Callable[[], str] | None = None
) -> Callable[[Callable[[Taken, Settings], Result]], Callable[..., Result]]:
    """Decorate a command's function of its options and the settings in force.

    Callers give the options one by one, by name: ``screen(images=..., batch=..., settings=...)``.
    Python and Prefect see these as the function's parameters, with descriptions and limits.
    The function says what the options do not say already: both make its documentation.
    ``run_name`` names the runs of a flow in Prefect, which otherwise does so itself.

    Raises:
        ValidationError: of pydantic, when the function is called with a wrong value.
    """
    hints = get_type_hints(options, include_extras=True)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(
            name,
            kind,
            annotation=hints[name],
            default=inspect.Parameter.empty if field.is_required() else field.get_default(),
        )
        for name, field in options.model_fields.items()
    ]
    parameters.append(inspect.Parameter(SETTINGS, kind, default=None, annotation=Settings | None))

    def decorate(function: Callable[[Taken, Settings], Result]) -> Callable[..., Result]:
        signature = inspect.Signature(
            sorted(parameters, key=lambda each: each.default is not inspect.Parameter.empty),
            return_annotation=inspect.signature(function).return_annotation,
        )

        @wraps(function)
        def call(*args: Any, **values: Any) -> Result:
            given = signature.bind_partial(*args, **values).arguments
            settings = given.pop(SETTINGS, None) or Settings()
            return function(options.model_validate(given), settings)

        said = (options.__doc__, inspect.getdoc(function))
        call.__doc__ = "\n\n".join(filter(None, said))
        vars(call).update({"__signature__": signature, RUN_NAME: run_name})
        return call

    return decorate
