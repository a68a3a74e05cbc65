"""Log a run to standard error, as text for people or one JSON object a line for machines.

Flows speak through Prefect's run logger, which is the standard library's: what they say reaches
Prefect's log and standard error alike, whoever started the run. No secret that stands in a URL gets
into either, nor a character of a name or label that steers a terminal.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from io import StringIO
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from flows.outcome import printable
from tasks.images.access.addresses import redact

LogFormat = Literal["text", "json"]
Value = TypeVar("Value")

# Loggers whose records are cleaned before any handler sees them.
PROGRAM = "slidewatch"
OURS = ("prefect.flow_runs", "prefect.task_runs", PROGRAM)

_IDS: ContextVar[Mapping[str, object]] = ContextVar("ids", default=MappingProxyType({}))


@contextmanager
def setting(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """Set a variable of the context in the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def bind(**ids: object) -> AbstractContextManager[None]:
    """Add fields such as ``batch`` to everything logged in the block, without those of None."""
    named = {name: value for name, value in ids.items() if value is not None}
    return setting(_IDS, {**_IDS.get(), **named})


def log(level: int, text: str, *, prefect: bool = True, **fields: object) -> None:
    """Log a message, with ``fields`` for machines; ``prefect``: Prefect keeps it, too."""
    extra = {"fields": fields, "send_to_api": prefect}
    _logger().log(level, "%s", text, extra=extra)


def _logger() -> "logging.Logger | logging.LoggerAdapter[Any]":
    # Importing Prefect takes a second; commands that run no flow do without it.
    if "prefect" in sys.modules:
        from prefect.exceptions import MissingContextError
        from prefect.logging import get_run_logger

        try:
            return get_run_logger()
        except MissingContextError:
            pass
    return logging.getLogger(PROGRAM)


def use_logs(form: LogFormat) -> None:
    """Set the form of the log until the process ends, and keep secrets out of it.

    A command calls it before Prefect is imported, which then sets up its own log, and its flow
    again.
    """
    for name in OURS:
        logging.getLogger(name).addFilter(_REDACT)
    if form == "text" and not is_json():
        return
    known = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    for logger in [logging.root, *known]:
        for other in list(logger.handlers):
            if _writes_text(other):
                logger.removeHandler(other)
                logger.propagate = True
    if not is_json():
        logging.root.addHandler(JsonHandler())
    logging.captureWarnings(True)
    for name in ("prefect", PROGRAM):
        logging.getLogger(name).setLevel(logging.INFO)


def _writes_text(handler: logging.Handler) -> bool:
    """Return whether a handler writes to the terminal, not into a file or memory."""
    return (
        isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
        and not isinstance(handler.stream, StringIO)
    )


def is_json() -> bool:
    """Return whether standard error has only JSON lines."""
    return any(isinstance(handler, JsonHandler) for handler in logging.root.handlers)


class JsonHandler(logging.Handler):
    """A handler that writes records of runs, and warnings of libraries, as lines of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, in one piece, so that no two lines run into each other."""
        if not record.name.startswith(("prefect.", PROGRAM)) and record.levelno < logging.WARNING:
            return
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)  # as every handler of the standard library does

    def format(self, record: logging.LogRecord) -> str:
        """Write the line: time, level, logger, message, run and fields, without secrets."""
        run = getattr(record, "flow_run_id", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"flow_run_id": run} if run is not None else {}),
            **_IDS.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(_redact_all(line), default=str, ensure_ascii=False)


def _redact_all(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: _redact_all(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_all(each) for each in value]
    return value


class _Redact(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(redact(record.getMessage()), keep="\n"), ()
        if record.exc_info:
            # Formatters take this text rather than make their own.
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True


_REDACT = _Redact()
