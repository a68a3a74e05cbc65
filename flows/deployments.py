"""Provide every flow to Prefect's deployments by name, such as ``flows.deployments.nightly``.

A flow is imported on first access.
"""

from importlib import import_module
from typing import Any

from flows.monitoring.prefect_runs import prefect_flow
from flows.options.commands import COMMANDS


def __getattr__(name: str) -> Any:
    command = COMMANDS.get(name)
    if command is None or not command.flow:
        raise AttributeError(f"module {__name__} has no flow {name}")
    module, _, function = command.function.partition(":")
    return prefect_flow(getattr(import_module(module), function), command.options)
