"""Define a command's options once: the command line, Prefect and the command's function read them.

The command line reads the definitions without importing a flow, which takes seconds.
"""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from flows.settings import without_secret

POSITIONAL = "positional"  # marks an option that is given without its name
SPELT = "spelt "  # marks one that a person writes otherwise than Python could, e.g. "spelt as"

Given = TypeVar("Given", bound=str | list[str] | None)


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
