"""Run the commands `config` and `completion`: print settings, and a script for a shell."""

import argparse
from typing import Any

import shtab

from flows.commands.parser import command_parser
from flows.options.commands import COMMANDS
from flows.options.taking import takes
from flows.options.tools import Completion, Config, Shell
from flows.outcome import Outcome
from flows.settings import Settings, leaves, origin


class Setting(Outcome):
    """One setting, its value and where that comes from."""

    name: str
    value: str | int | float | bool | list[str] | None
    origin: str

    def text(self) -> str:
        """Write the setting as a line such as a TOML file has."""
        return f"{self.name} = {self.value}"


class ConfigOutcome(Outcome):
    """All settings in force."""

    settings: list[Setting]

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        wide = max(len(each.text()) for each in self.settings)
        return "\n".join(f"{each.text():<{wide}}  ({each.origin})" for each in self.settings)


class CompletionOutcome(Outcome):
    """A script that a shell reads."""

    shell: Shell
    script: str

    def text(self) -> str:
        """Return the script."""
        return self.script


@takes(Config)
def config(options: Config, settings: Settings) -> ConfigOutcome:
    """Passwords and tokens in addresses are left out."""
    values, others = leaves(settings.model_dump()), leaves(Settings().model_dump())
    return ConfigOutcome(
        settings=[
            Setting(
                name=name,
                value=value,
                origin=origin(name) if value == others[name] else "command line",
            )
            for name, value in values.items()
        ]
    )


def _completed(destination: str) -> Any:
    """Say how a shell completes a value: by names in the store that settings name, or by files."""
    kind = {"batch": "batches", "site": "sites", "detector": "detectors", "model": "models"}.get(
        destination.rpartition(":")[2]
    )
    return shtab.cmd(f"slidewatch status --names {kind} 2>/dev/null") if kind else shtab.FILE


@takes(Completion)
def completion(options: Completion, settings: Settings) -> CompletionOutcome:
    """Bash: ``eval "$(slidewatch completion bash)"``; zsh: write it to a file ``_slidewatch`` of a
    folder in ``fpath``; fish: ``slidewatch completion fish | source``.
    """
    root = argparse.ArgumentParser(prog="slidewatch")
    root.add_argument("--version", action="store_true", help="say which slidewatch this is")
    tops = root.add_subparsers()
    inner: dict[str, Any] = {"": tops}
    for name, command in COMMANDS.items():
        first, _, second = name.rpartition(" ")
        if first not in inner:
            inner[first] = tops.add_parser(first, help=f"{first} ...").add_subparsers()
        parser = command_parser(name)
        inner[first].add_parser(second, parents=[parser], help=command.summary, add_help=False)
        for action in parser._actions:
            if action.nargs is None and not action.choices:
                action.complete = _completed(action.dest)  # type: ignore[attr-defined]
    return CompletionOutcome(shell=options.shell, script=shtab.complete(root, options.shell))
