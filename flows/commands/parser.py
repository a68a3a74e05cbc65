"""Read words by the definitions in `flows.options`: cyclopts splits, and pydantic checks them."""

import inspect
from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, Literal, get_args, get_origin

from cyclopts import App, CycloptsError, Group, Parameter, UnknownOptionError
from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flows.options import commands
from flows.options.flows import POSITIONAL, SPELT, UNNAMED
from flows.outcome import shell_command
from flows.settings import Settings, UsageError

Given = dict[str, Any]  # given values by name
KEYWORD, POSITION = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_ONLY
KINDS = {POSITIONAL: POSITION, UNNAMED: inspect.Parameter.POSITIONAL_OR_KEYWORD}
JSON = FieldInfo(annotation=bool, default=False, description="print the outcome for machines")
SHOWN = {int: "N", float: "X", date: "YYYY-MM-DD"}
OWN = Group("options of this command", sort_key=1)
ALSO_SET = Group("settings, which the environment and slidewatch.toml may have too", sort_key=2)
MESSAGES = Group("messages", sort_key=3)
ALL = "--help-all"
HELP = ["--help", "-h", ALL]
COMMAND = "command"  # an attribute of the function that stands for a command
# A paragraph is one line, which cyclopts wraps at the width of the terminal.
OVERVIEW = "\n\n".join(
    (
        "Screen blood smears for malaria parasites, every night. slidewatch look PHOTO and "
        "slidewatch screen FOLDER answer at once.",
        "With any command, --json prints the outcome for machines, --quiet only the outcome, and "
        "--debug shows tracebacks. Settings can also come from the environment (SLIDEWATCH_STORE) "
        "or slidewatch.toml; slidewatch doctor prints them, and where each comes from.",
        "Exit codes: 0 done; 1 nothing was done, and one line says why; 2 misspelt; 3 done and "
        "kept, but something needs a person, such as images that failed; 130 stopped.",
    )
)


def read(app: App, words: list[str]) -> Given:
    """Read the values given to a command, or SystemExit after help; UsageError if one is wrong."""
    try:
        called, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except UnknownOptionError as error:
        hint = ""
        if "--" in words:
            raise UsageError("what follows -- is a name: give options before it") from None
        if error.token.keyword is None and "Did you mean" not in str(error):  # it may be a name
            command = shell_command(" ".join(app.parse_commands(words)[0]), "--", error.token.value)
            hint = f"; a name that begins with - stands last, after --: {command}"
        raise UsageError(f"{str(error).removesuffix('.')}{hint}") from None
    except UnusedCliTokensError as error:
        raise UsageError(f"{' '.join(error.unused_tokens or ())}: too many values") from None
    except MissingArgumentError as error:
        name = error.keyword or (error.argument.name if error.argument else "an option")
        raise UsageError(f"{name}: a value is missing") from None
    except CycloptsError as error:
        raise UsageError(str(error).removesuffix(".")) from None
    if vars(called).get(COMMAND) is None:
        called(*bound.args, **bound.kwargs)
        asks = {"-h", "--help", ALL, "--version", "--install-completion", "__complete"}
        raise SystemExit(2 if asks.isdisjoint(words) else 0)
    for key, value in bound.arguments.items():
        texts = value if isinstance(value, list) else [value]
        if "" in texts:
            raise UsageError(f"{option_name(key)}: it is empty: is a variable not set?")
        if any("\ud800" <= sign <= "\udfff" for text in texts for sign in str(text)):
            raise UsageError(f"{option_name(key)}: it is not UTF-8: rename it, or set PYTHONUTF8=1")
    return bound.arguments


def asks_help(words: list[str]) -> bool:
    """Return whether help was requested, or no arguments were given."""
    return not words or not {"--help", "-h"}.isdisjoint(words)


def in_order(words: list[str]) -> list[str]:
    """Put options that stand before the command behind it.

    >>> in_order(["--quiet", "--store", "s", "status", "--json"])
    ['status', '--json', '--quiet', '--store', 's']
    """
    first = {name.split()[0] for name in commands.COMMANDS}
    named = [i for i, word in enumerate(words) if word in first]
    others = [i for i, word in enumerate(words) if not word.startswith("-")]
    start = next(iter(named + others), 0)
    return [*words[start:], *words[:start]]


def make_app(*, all_options: bool = True) -> App:
    """Make the command line of all commands; without ``all_options`` help has the commands' own."""
    app = App(
        name="slidewatch",
        help=OVERVIEW,
        version=lambda: f"slidewatch {version('slidewatch')}",
        help_format="plaintext",
        help_flags=HELP,
        help_epilogue=None if all_options else f"slidewatch COMMAND {ALL} has all options.",
    )
    app.register_install_completion_command(help="let this shell complete words with Tab")
    for number, (name, command) in enumerate(commands.COMMANDS.items()):
        first, _, second = name.rpartition(" ")
        if first and first not in app:
            app.command(
                App(name=first, help=commands.PARTS[first], help_flags=HELP, sort_key=number)
            )
        within = app[first] if first else app
        within.command(
            _function(name, all_options), name=second, help=command.summary, sort_key=number
        )
    return app


def _function(name: str, all_options: bool) -> Callable[..., None]:
    """Make a function that has a command's options as its parameters, for cyclopts to read."""

    def called(**_: Any) -> None: ...

    command = commands.COMMANDS[name]
    own = {each: (field, OWN) for each, field in command.options.model_fields.items()}
    also = {each: (Settings.model_fields[each], ALSO_SET) for each in command.settings}
    told = {each: (Settings.model_fields[each], MESSAGES) for each in commands.TOLD}
    parameters = [
        _parameter(each, *about, show=about[1] is OWN or all_options or each == "store")
        for each, about in (own | also | told | {"json": (JSON, MESSAGES)}).items()
    ]
    parameters.sort(key=lambda each: (each.kind, each.default is not each.empty))
    vars(called).update({"__signature__": inspect.Signature(parameters), COMMAND: name})
    return called


def _parameter(name: str, field: FieldInfo, group: Group, *, show: bool) -> inspect.Parameter:
    """Describe an option or a setting for cyclopts, which gives its words on as they are."""
    hint, kinds = _hint(field.annotation), {field.annotation, *get_args(field.annotation)}
    kind = next((each for mark, each in KINDS.items() if mark in field.metadata), KEYWORD)
    shown = "" if field.default in (PydanticUndefined, None, False) else field.default
    about = Parameter(
        name=() if kind is POSITION else option_name(spelt(field) or name),
        help=field.description,
        group=group,
        show=show,
        metavar=next((form for kind, form in SHOWN.items() if kind in kinds), name.upper()),
        negative=None if hint is bool and (field.default or group is not OWN) else (),
        show_default=f"{shown}".strip("[]").replace("'", "") or False,
        completer=COMPLETED.get(name),
    )
    default = inspect.Parameter.empty if field.is_required() else None
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[hint | None, about])


def _hint(annotation: Any) -> Any:
    """Return the type by which cyclopts splits words: one, several, one of a choice, or a flag."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is bool or origin is Literal:
        return annotation
    if origin is list:
        return list[_hint(parts[0])]  # type: ignore[misc]
    hints = [_hint(part) for part in parts if part is not type(None)]
    return next((hint for hint in hints if hint is not str), str)


def spelt(field: FieldInfo) -> str | None:
    """Return how a person writes an option's name, where Python cannot write it so."""
    marks = (mark for mark in field.metadata if isinstance(mark, str) and mark.startswith(SPELT))
    return next((mark.removeprefix(SPELT) for mark in marks), None)


def option_name(name: str) -> str:
    """Write an option's name as a person types it."""
    return "--" + name.replace("_", "-")


def _names(kind: str, _: Any) -> Iterable[str]:
    from storage.batches.manifests import list_batches
    from storage.store import Store

    store = Store(Settings().store)
    if kind == "batches":
        return [batch.name for batch in list_batches(store, lambda _: None)]
    return store.names(kind)


COMPLETED = {
    name: partial(_names, kind)
    for name, kind in {
        "batch": "batches", "detector": "detectors", "model": "models",
        "laboratory": "learned",
    }.items()
}  # fmt: skip
