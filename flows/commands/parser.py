"""Read the arguments of ``slidewatch`` by the definitions in `flows.options`.

argparse splits the words, and pydantic checks the values, as it does for the environment, for
slidewatch.toml and for Prefect.
"""

import argparse
from collections.abc import Sequence
from datetime import date
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flows.options.commands import COMMANDS, GROUPS, SELDOM, TOLD, Command
from flows.options.taking import POSITIONAL, SPELT
from flows.settings import REMOVED, Settings, UsageError

Given = dict[str, Any]  # given values by name; a value with parts is a mapping of them
SHOWN = {int: "N", float: "X", date: "YYYY-MM-DD"}
AS_JSON = "json"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def read(name: str, arguments: Sequence[str]) -> tuple[Given, Given, bool]:
    """Read a command's arguments; ``--help`` prints help and ends the program.

    Returns:
        The command's own options, its settings, and whether ``--json`` was given.

    Raises:
        UsageError: an option is unknown, or has no value, or an empty one.
    """
    parser = command_parser(name)
    found, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UsageError(_unknown(unknown[0], parser))
    own: Given = {}
    settings: Given = {}
    for key, value in vars(found).items():
        if value == "" or (isinstance(value, list) and "" in value):
            option = option_name(key.partition(":")[2])
            raise UsageError(f"{option}: it is empty: is a variable not set?")
        kind, _, path = key.partition(":")
        into = own if kind == "own" else settings
        *parents, last = path.split(".")
        for parent in parents:
            into = into.setdefault(parent, {})
        into[last] = value
    return own, settings, bool(settings.pop(AS_JSON, False))


def command_parser(name: str) -> argparse.ArgumentParser:
    """Make the parser of one command."""
    command = COMMANDS[name]
    needed: list[str] = []
    for option, field in command.options.model_fields.items():
        if POSITIONAL in field.metadata:
            needed.insert(0, option.upper() if field.is_required() else f"[{option.upper()}]")
        elif field.is_required():
            needed.append(f"{option_name(option)} {_metavar(option, field)}")
    parser = _Parser(
        prog=f"slidewatch {name}",
        usage=" ".join([f"slidewatch {name}", *needed, "[options]"]),
        description=command.summary,
        allow_abbrev=False,
        add_help=False,
    )
    add_options(parser, command)
    return parser


def add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add the options of a command to a parser: its own first, expert options last."""
    fields = sorted(
        command.options.model_fields.items(), key=lambda each: not each[1].is_required()
    )
    groups = {"options of this command": [name for name, _ in fields]}
    for title, wanted in GROUPS.items():
        groups[title] = [name for name in command.settings if name.partition(".")[0] in wanted]
    groups["messages"] = list(TOLD)
    all_names = [name for names in groups.values() for name in names]
    rare = [name for name in all_names if name.partition(".")[0] in SELDOM]
    shown = {title: [name for name in names if name not in rare] for title, names in groups.items()}
    for title, names in (shown | {"for experts": rare}).items():
        if not names:
            continue
        group = parser.add_argument_group(title)
        for name in names:
            field = command.options.model_fields.get(name)
            if field is None:
                _add_setting(group, name)
            else:
                _add(group, f"own:{field.validation_alias or name}", name, field)
        if title == "messages":
            _add_help(group)


def _add_help(group: Any) -> None:
    group.add_argument(
        "--json",
        action="store_true",
        dest=f"settings:{AS_JSON}",
        default=argparse.SUPPRESS,
        help="print the outcome for machines",
    )
    group.add_argument("-h", "--help", action="help", help="print this")


def _add_setting(group: Any, name: str) -> None:
    """Add a setting, or an option for each of its parts."""
    model: type[BaseModel] = Settings
    *parents, last = name.split(".")
    for parent in parents:
        model = _model(model.model_fields[parent])  # type: ignore[assignment]
    field = model.model_fields[last]
    parts = _model(field)
    if parts is None:
        _add(group, f"settings:{name}", name, field)
        return
    for part in parts.model_fields:
        _add_setting(group, f"{name}.{part}")


def _add(group: Any, destination: str, name: str, field: FieldInfo) -> None:
    """Add one option to a group of a parser."""
    kinds, choices = _kinds(field.annotation)
    more: dict[str, Any] = {"help": _help(field)}
    if POSITIONAL in field.metadata:
        if field.is_required():
            more["choices"] = choices or None
        else:  # argparse would compare its own default with the choices; pydantic refuses others
            more |= {"nargs": "?", "default": argparse.SUPPRESS}
        group.add_argument(destination, metavar=name.upper(), **more)
        return
    if bool in kinds:
        more["action"] = argparse.BooleanOptionalAction
    else:
        more["metavar"] = _metavar(name, field)
    if {list, tuple} & kinds:
        more["action"] = "append" if str | list[str] == field.annotation else _Split
    elif choices:
        more["choices"] = choices
    group.add_argument(
        option_name(spelt(field) or str(field.validation_alias or name)),
        dest=destination,
        default=argparse.SUPPRESS,
        **more,
    )


def spelt(field: FieldInfo) -> str | None:
    """Return how a person writes an option's name, where Python cannot write it so."""
    marks = (mark for mark in field.metadata if isinstance(mark, str) and mark.startswith(SPELT))
    return next((mark.removeprefix(SPELT) for mark in marks), None)


class _Split(argparse.Action):
    """An option of several values, which is repeated or has commas between its values."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        found = getattr(namespace, self.dest, [])
        setattr(namespace, self.dest, [*found, *values.split(",")])


def _kinds(annotation: Any) -> tuple[set[Any], list[str]]:
    """Find the plain types in an annotation, and the words to choose from."""
    if get_origin(annotation) is Literal:
        return {str}, list(get_args(annotation))
    if get_origin(annotation) is None:
        return {annotation}, []
    kinds: set[Any] = {get_origin(annotation)}
    choices: list[str] = []
    for part in get_args(annotation):
        more, words = _kinds(part)
        kinds |= more
        choices += words
    return kinds, choices


def _model(field: FieldInfo) -> type[BaseModel] | None:
    """Find the model of a setting that has parts, or None."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _metavar(name: str, field: FieldInfo) -> str:
    """Write what help shows for a value: its form, or the words to choose from."""
    kinds, choices = _kinds(field.annotation)
    if choices:
        return f"{{{','.join(choices)}}}"
    form = next((form for kind, form in SHOWN.items() if kind in kinds), None)
    return form or name.rpartition(".")[2].upper()


def _help(field: FieldInfo) -> str:
    """Write the help of an option: its meaning, and its default if it has one."""
    text = field.description or ""
    default = field.get_default()
    if field.is_required() or default in (None, False, []) or default is PydanticUndefined:
        return text.replace("%", "%%")
    shown = ",".join(map(str, default)) if isinstance(default, list | tuple) else default
    return f"{text} (default: {shown})".replace("%", "%%")


def option_name(name: str) -> str:
    """Write an option's name as a person types it."""
    return "--" + name.replace("_", "-")


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    """Write that an option is unknown, and which one may be meant."""
    known = [option for action in parser._actions for option in action.option_strings]
    if not word.startswith("-"):
        return f"unexpected {word!r}; see {parser.prog} --help"
    gone = word.partition("=")[0].removeprefix("--").replace("-", "_")
    if gone in REMOVED:
        return f"{option_name(gone)} is no option any more: {REMOVED[gone]}"
    close = get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.7)
    meant = f"did you mean {close[0]}?" if close else f"see {parser.prog} --help"
    return f"unknown option {word.partition('=')[0]}; {meant}"
