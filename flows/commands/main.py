"""Run the command ``slidewatch``: a flow or tool by name, with the options of `flows.options`.

Exit codes: 0 all is well; 1 nothing was done, and one line says why; 2 the command was misspelt;
3 the work is done and kept, but something in it needs a person (such as failed images);
130 stopped by Ctrl-C or SIGTERM.
"""

import errno
import logging
import os
import signal
import sys
import traceback
from contextlib import nullcontext
from io import TextIOWrapper
from pkgutil import resolve_name
from typing import NoReturn

from pydantic import ValidationError
from pydantic_settings import SettingsError

from flows.cluster.preload import import_for_workers
from flows.commands.parser import ALL, Given, asks_help, in_order, make_app, option_name, read
from flows.jobs.worker import imported_once
from flows.monitoring import ending, logs
from flows.options import commands
from flows.prefect.runs import server
from flows.settings import Settings, UsageError, leaves, origin, settings_file

MISSPELT = 2
NEEDS_A_PERSON = 3
STOPPED = 130
CLIENTS = {"aiohttp", "azure", "botocore", "gcsfs", "google"}  # of object stores


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("SLIDEWATCH_DEBUG", "") in {"1", "true"}
    _quiet_prefect(debug)
    # SIGTERM, and a terminal that closes, end a command as Ctrl-C does: leases are released, and
    # nothing is left running; not under nohup.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    if arguments is None:  # the process is this command's alone
        ending.end_after_signals(STOPPED, _say_stopped)
    app, words = make_app(all_options=ALL in words or not asks_help(words)), in_order(words)
    name = " ".join(app.parse_commands(words)[0])
    try:
        code = _run(name, read(app, words))
    except BrokenPipeError:  # the reader of the answer, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        _complain(f"slidewatch {name}".rstrip() + f": {_one_line(error)}")
        code = MISSPELT if isinstance(error, ValidationError | UsageError) else 1
    except SystemExit:
        raise
    except BaseException:  # Ctrl-C, and Prefect's own signal that it was asked to end
        _say_stopped()
        code = STOPPED
        if arguments is None and server() is None:  # no server waits for an answer
            ending.end(code)
    if arguments is None:
        if name == "query":  # after a LIMIT, threads may still read reports: Python would abort
            ending.end(code)
        ending.leave(code)
    sys.exit(code)


def _say_stopped() -> None:
    _complain("slidewatch: stopped; run the same command again to resume")


def _complain(text: str) -> None:
    from flows.monitoring.console import complain  # help and versions do without it

    complain(text)


def _run(name: str, given: Given) -> int:
    command, as_json = commands.COMMANDS[name], given.pop("json", False)
    values = {key: given.pop(key) for key in command.options.model_fields if key in given}
    options = command.options.model_validate(values)
    settings = _settings(given)
    from flows.monitoring.console import be_quiet, moving

    be_quiet(settings.quiet)
    with moving("getting ready") if command.flow else nullcontext():
        with imported_once():
            _prepare(command, settings)
            if command.workers:
                import_for_workers()  # they get ready while the flow is imported
            if command.place is None:
                raise UsageError(f"{name} knows smears, and the folders `smears` are not installed")
            function = resolve_name(command.place)
        if command.flow:
            from flows.prefect.decorators import run

            outcome = run(function, options, settings)
        else:
            outcome = function(options, settings)
    if isinstance(sys.stdout, TextIOWrapper):  # which may know ASCII alone
        sys.stdout.reconfigure(errors="backslashreplace")
    for piece in outcome.pieces(as_json):
        sys.stdout.write(piece)
    sys.stdout.flush()
    if outcome.problem:
        _complain(f"slidewatch {name}: {outcome.problem}")
    return NEEDS_A_PERSON if outcome.failed else 0


def _settings(given: Given) -> Settings:
    """Read the settings in force; UsageError says where a wrong one stands."""
    try:
        return Settings(**given)
    except SettingsError as error:
        raise UsageError(" ".join(str(error).split())) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        where = option_name(name) if name in leaves(given) else f"{name} ({origin(name)})"
        raise UsageError(f"{where}: {_message(first['msg'])}") from error


def _prepare(command: commands.Command, settings: Settings) -> None:
    """Set up messages and the log, and say what works for whom, before anything is started."""
    from flows.monitoring.console import tell
    from flows.monitoring.logs import use_logs

    use_logs(settings.logs)
    file = settings_file()
    if file and command.flow:
        tell(f"settings: {file}")
    if "cluster" in command.settings and settings.cluster == "scheduler" and settings.scheduler:
        # A forgotten file in the working folder may have named it.
        tell(f"workers: those of the Dask scheduler {settings.scheduler}")
    address = server() if command.flow else None
    if address:
        tell(f"Prefect server: {address}, which records this run")


def _one_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        option = f"{option_name(str(first['loc'][0]))}: " if first["loc"] else ""
        return f"{option}{_message(first['msg'])}"
    text, kind = " ".join(str(error).split()), type(error)
    made_by = kind.__module__.split(".")[0]
    if made_by in {"flows", "tasks", "storage"} and text:
        return text
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        where = error.filename or "the disk of the store, or that of temporary files"
        return (
            f"{where} is full ({error.strerror}): make room (slidewatch prune lists what can be "
            "removed), and run the same command again; everything complete is kept"
        )
    if isinstance(error, OSError) and error.filename:
        why = error.strerror or kind.__name__
        return f"{error.filename} cannot be used ({why}): check the path, and who may use it"
    if isinstance(error, ConnectionError | TimeoutError) or made_by in CLIENTS:
        return (
            f"a server of files does not answer ({text or kind.__name__}): check its address, the "
            "network and the login"
        )
    return f"{kind.__name__}: {text}"


def _message(text: str) -> str:
    """Turn pydantic's message on a value into the rest of a sentence."""
    text = text.removeprefix("Value error, ")
    if text.startswith(("Input should be a valid date", "Datetimes provided to dates")):
        return "give a date as YYYY-MM-DD"
    return f"{text[:1].lower()}{text[1:]}"


def _quiet_prefect(debug: bool) -> None:
    """Silence Prefect's log unless with --debug: a person at a terminal reads the outcome."""
    for name in ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_INTERNAL_LEVEL"):
        os.environ.setdefault(name, "INFO" if debug else "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if debug:
        logging.getLogger(logs.PROGRAM).setLevel(logging.INFO)
        if handler := logging.lastResort:  # that of loggers without one
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            handler.setLevel(logging.INFO)
    else:
        # Dask sets the level of its log when it is imported, by its configuration.
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
        # Prefect's EventsWorker logs on the way out that it is not done yet.
        # Our own warnings are written to the terminal already.
        for name in ("EventsWorker", logs.PROGRAM):
            logging.getLogger(name).setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
