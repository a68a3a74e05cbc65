"""Find the functions by which the wing, if it is installed, extends training and screening."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

WING = "flows.smears"
# The function of each extension, in a module of the wing.
PLACES = {
    "counting": "stages.chosen_thresholds:counting_arrays",
    "check of single cells": "jobs.single_cells:refuse_photograph",
    "check of labels": "stages.answers:refuse_second_review",
}


@cache
def extension(name: str) -> Callable[..., Any] | None:
    """Load the function of an extension; None without the wing."""
    if find_spec(WING) is None:
        return None
    found: Callable[..., Any] = resolve_name(f"{WING}.{PLACES[name]}")
    return found
