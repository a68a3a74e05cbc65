"""The command ``slidewatch``: every flow and tool by name, its options read off its signature.

Exit codes: 0 all is well; 1 nothing was done, and one line says why; 2 the command was misspelt;
3 the work is done and kept, but something in it needs a person (images failed, no detector);
130 stopped by Ctrl-C or SIGTERM.
"""

import importlib
import inspect
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from pydantic import ValidationError, create_model
from pydantic_settings import CliApp, SettingsConfigDict, SettingsError

from flows.cluster.preload import import_for_workers
from flows.monitoring.console import be_quiet, complain
from flows.monitoring.logs import use_logs
from flows.monitoring.prefect_server import start_server
from flows.outcome import Outcome
from flows.settings import Settings

COMMANDS = {
    "train": "flows.train:train",
    "fit": "flows.fit:fit",
    "retract": "flows.fit:retract",
    "segment": "flows.segment:segment",
    "screen": "flows.screen:screen",
    "nightly": "flows.nightly:nightly",
    "evaluate": "flows.evaluate:evaluate",
    "prune": "flows.prune:prune",
    "status": "flows.commands.status:status",
    "query": "flows.commands.query:query",
    "schema": "flows.commands.query:schema",
    "contours": "flows.commands.contours:contours",
    "review export": "flows.commands.review:export",
    "review import": "flows.commands.review:import_verdicts",
    "review report": "flows.commands.review:report",
    "doctor": "flows.commands.doctor:doctor",
    "certificates": "flows.commands.certificates:certificates",
    "demo": "flows.commands.demo:demo",
    "data malaria": "flows.commands.malaria_data:malaria",
}
FLOWS = {"train", "fit", "retract", "segment", "screen", "nightly", "evaluate", "prune", "demo"}
ON_WORKERS = {"fit", "segment", "screen", "nightly", "evaluate"}
NEEDS_A_PERSON = 3
STOPPED = 130


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    name, rest = _command(arguments)
    debug = "--debug" in rest or os.environ.get("SLIDEWATCH_DEBUG", "") in {"1", "true"}
    _quiet_prefect(debug)
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = _run(name, rest, as_json)
    except BrokenPipeError:  # whoever reads the answer, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        complain(f"slidewatch {name}: {_one_line(error)}")
        code = 2 if isinstance(error, ValidationError | SettingsError) else 1
    except SystemExit:
        raise
    except BaseException:  # Ctrl-C, and Prefect's own signal that it was asked to end
        complain("slidewatch: stopped; run the same command again to go on")
        code = STOPPED
    sys.exit(code)


def _stop(*_: object) -> NoReturn:
    """End on SIGTERM as on Ctrl-C: release what is held, and leave nothing running."""
    raise KeyboardInterrupt


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command's name and the arguments behind it; help or a complaint ends the program."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    if arguments and arguments[0] not in {"-h", "--help", "help"}:
        print(
            f"slidewatch: no command {arguments[0]!r}; there are: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    print("usage: slidewatch COMMAND [options]      (slidewatch COMMAND --help lists them)\n")
    for name, place in COMMANDS.items():
        print(f"  {name:<13} {_summary(_load(place))}")
    print("\n--json with any command prints its outcome for machines, --quiet nothing beside it;")
    print("--debug shows tracebacks.")
    print("Any option can stand in the environment (SLIDEWATCH_STORE) or in slidewatch.toml.")
    sys.exit(0 if arguments else 2)


def _run(name: str, arguments: list[str], as_json: bool) -> int:
    # Both get ready while the flow is imported; who asks for help needs neither.
    asks_for_help = bool({"-h", "--help"} & set(arguments))
    if name in ON_WORKERS and not asks_for_help:
        import_for_workers()
    server = start_server() if name in FLOWS and not asks_for_help else None
    function = _load(COMMANDS[name])
    options = CliApp.run(_options(name, function), cli_args=arguments)
    given = {field: getattr(options, field) for field in _parameters(function)}
    settings = Settings(**{field: getattr(options, field) for field in Settings.model_fields})
    be_quiet(settings.quiet)
    use_logs(settings.logs)
    if server:
        server.wait()
    failure: Exception | None = None
    try:
        outcome: Outcome = function(**given, settings=settings)
    except Exception as error:
        # Work that is kept although it failed in part carries its outcome along.
        if not isinstance(getattr(error, "outcome", None), Outcome):
            raise
        outcome, failure = error.outcome, error  # type: ignore[attr-defined]
    for piece in outcome.pieces(as_json):
        sys.stdout.write(piece)
    sys.stdout.flush()
    if failure:
        complain(f"slidewatch {name}: {_one_line(failure)}")
    return NEEDS_A_PERSON if outcome.failed else 0


def _load(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """What the command itself takes, as fields of a pydantic model."""
    signature = inspect.signature(getattr(function, "fn", function))
    return {
        name: (
            parameter.annotation,
            ... if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for name, parameter in signature.parameters.items()
        if name != "settings"
    }


def _options(name: str, function: Callable[..., Any]) -> type[Settings]:
    """A settings class with the command's own parameters in front."""
    own = create_model("Own", **_parameters(function))

    class Options(Settings, own):
        model_config = SettingsConfigDict(
            cli_prog_name=f"slidewatch {name}",
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_avoid_json=True,
        )

    Options.__doc__ = _summary(function)
    return Options


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(getattr(function, "fn", function)) or "").split("\n\n")[0]


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        option = "--" + "-".join(str(part) for part in first["loc"][:1]).replace("_", "-")
        return f"{option}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    text = " ".join(str(error).split())
    known = type(error).__module__.split(".")[0] in {"flows", "tasks", "storage"}
    return text if known and text else f"{type(error).__name__}: {text}"


def _quiet_prefect(debug: bool) -> None:
    """A person at a terminal reads the outcome; the flows' log is there with --debug."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if debug else "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if not debug:
        # Prefect's EventsWorker says on the way out that it is not quite done yet.
        for name in ("distributed", "EventsWorker"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
