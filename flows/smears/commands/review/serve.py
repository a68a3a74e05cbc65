"""Run the command `review serve`: pages on which a person reads cells, on this machine alone."""

import errno
import secrets
import socket
from contextlib import suppress

import uvicorn

from flows.monitoring.console import tell
from flows.options.tools import ReviewServe
from flows.outcome import DamageOutcome, shell_command, table
from flows.settings import Settings, UsageError
from flows.smears.commands.review.app import Bench
from flows.smears.commands.review.figures import ToldFigure, figures, patient_figures
from flows.smears.commands.review.guards import guarded
from flows.smears.commands.review.imports import show_answers
from flows.smears.commands.review.pages.requests import checked_reader
from flows.smears.commands.review.session import open_session
from flows.smears.stages.answers import Suspects
from flows.smears.stages.calling import screened_batch
from storage.store import Store
from tasks.words import counted

HOST = "127.0.0.1"
END_WITHIN = 2  # seconds after Ctrl-C, for a client that holds a request half sent


class ReadOutcome(DamageOutcome):
    """The answers on a batch when its pages are closed."""

    batch: str
    cells: int
    figures: list[ToldFigure]

    def _text(self) -> str:
        rows: list[tuple[str, object]] = [(each.name, each.text) for each in self.figures]
        rows.append(("next", shell_command("review", "report", "--batch", self.batch)))
        return f"batch {self.batch}: {counted(self.cells, 'cell')} to read\n{table(rows)}"


def serve(options: ReviewServe, settings: Settings) -> ReadOutcome:
    """Serve the pages to browsers of this machine."""
    store, wanted = Store(settings.store), settings.negative_percent / 100
    reader = options.reader and checked_reader(options.reader)
    frozen = screened_batch(store, options.batch)
    session, detector = open_session(
        store, frozen, limit=options.limit, per_slide=options.per_slide, unmarked=options.unmarked
    )
    bench = Bench(session, detector, blind=options.blind, reader=reader, wanted=wanted)
    token = secrets.token_urlsafe(24)
    hosts = [f"{name}:{options.port}" for name in (HOST, "localhost")]
    config = uvicorn.Config(
        guarded(bench.app(), token, hosts),
        log_level="critical",  # the page shows what goes wrong
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=END_WITHIN,
    )
    # A person who opens the address at once waits a moment, and is not refused.
    with _listening(options.port) as listening:
        tell(f"{counted(len(session.cells), 'cell')} of batch {frozen.name}; Ctrl-C ends; open:")
        tell(f"http://{HOST}:{options.port}/{token}/")
        with suppress(KeyboardInterrupt):  # raised once the server has shut down
            uvicorn.Server(config).run(sockets=[listening])
    if session.readers():
        show_answers(frozen.name, settings)
    return ReadOutcome(
        batch=session.batch.name,
        cells=len(session.cells),
        figures=[*figures(session), *patient_figures(Suspects(session, detector, wanted))],
        damaged=list(session.damaged.values()),
    )


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"--port: {HOST}:{port} is already in use: give another") from None
        raise UsageError(f"--port: {HOST}:{port} cannot be served: {error.strerror}") from None
