"""Start a Prefect server for one command, where the operator has none.

Prefect would start one itself when the flow begins. A server that starts before the flow's imports
is ready when they are done. It watches the process that started it, and ends if that is killed;
that process watches the server, and works without it once the flow has begun. Prefect begins no
flow without a server, so one that is killed before that is started again.
"""

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from urllib.error import URLError
from urllib.request import urlopen

from flows.monitoring.ending import CONCLUSION, LOST

# Seconds. It takes a minute under a load of 20; one that ends is noticed at once.
STARTUP = 600.0
STARTS = 4  # of one command
LOOK = 0.5  # seconds between looks at whether the server is there
GRACE = 5.0  # seconds in which it ends when it is told to
SILENT = 30.0  # seconds without an answer after which a server is taken for lost
SERVE = ("-m", "flows.monitoring.prefect_server")
# Tries that Prefect's client makes again, a few seconds in all; its own five take a minute, each
# time that it has something to tell.
TRIES_AGAIN = "2"


class ServerError(Exception):
    """Prefect's server does not start."""


class TemporaryServer:
    """A Prefect server that answers this process alone, and ends with it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/api"
        self._starts, self._ending = 0, False
        self._start()
        # What Prefect registers after this, to send its last events, happens before it.
        atexit.register(self._terminate)
        CONCLUSION.last.append(lambda: self._process.kill())

    def _start(self) -> None:
        self._starts += 1
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  as long as the server
        quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
        # Python files that lie in the working folder, beside images, are no modules of ours.
        quiet |= {"PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, *SERVE, str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env=os.environ | quiet,
            start_new_session=True,  # Ctrl-C is for the flow, which has something left to tell it
        )

    def wait(self) -> None:
        """Wait until the server answers; start it again where it is killed before it does.

        Raises:
            ServerError: it does not, and the last that it said.
        """
        while not self._answers_soon():
            # One that ends by itself has said why, and would end again.
            if self._process.returncode >= 0 or self._starts == STARTS:
                self._said.seek(0)
                said = self._said.read().decode(errors="replace").split("Error:")[-1].strip()
                raise ServerError(f"Prefect's temporary server does not start: {said or 'killed'}")
            _warn("Prefect's temporary server was killed while it started: it is started again")
            self._start()
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()

    def _answers_soon(self) -> bool:
        """Wait until the server answers; False where it has ended, or is ended as too slow."""
        ends = time.monotonic() + STARTUP
        while self._process.poll() is None:
            try:
                with urlopen(f"{self.url}/health", timeout=5):
                    return True
            except (URLError, TimeoutError, ConnectionError):
                time.sleep(0.02)
            if time.monotonic() > ends:
                self._process.kill()
                self._process.wait()
                raise ServerError(
                    "Prefect's temporary server does not start: it has not answered for "
                    f"{STARTUP:.0f} seconds"
                )
        return False

    def again(self) -> bool:
        """Start the server again if it is lost; return whether it was, and answers now."""
        if not self.lost:
            try:
                with urlopen(f"{self.url}/health", timeout=5):
                    return False
            except OSError:  # it hangs
                self._process.kill()
                self._process.wait()
        if self._starts >= STARTS:
            return False
        _warn("Prefect's temporary server was lost before the flow began: it is started again")
        self._start()
        self.wait()
        return True

    @property
    def lost(self) -> bool:
        """Tell whether the server has ended before this process."""
        return self._process.poll() is not None

    def _terminate(self) -> None:
        self._ending = True
        self._process.terminate()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:  # it is stopped, or waits for something
            self._process.kill()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a server is lost, and see to it that nobody waits for it."""
        answered = time.monotonic()
        while process.poll() is None and time.monotonic() - answered < SILENT:
            time.sleep(LOOK)
            with suppress(OSError), urlopen(f"{self.url}/health", timeout=5):
                answered = time.monotonic()
        if self._ending:
            return
        lost = process.poll() is not None
        why = "has ended" if lost else f"has not answered for {SILENT:.0f} seconds"
        process.kill()  # what waits for its answer is told so at once
        process.wait()
        while not CONCLUSION.begun:  # the command starts another, unless the flow begins without
            if self._ending or self._process is not process:
                return
            time.sleep(LOOK)
        _tell_prefect_nothing_more()
        _warn(f"Prefect's temporary server {why}: the work goes on, and Prefect is not told of it")


def start_server() -> TemporaryServer | None:
    """Begin to start a server for this process, unless a Prefect API is configured.

    Raises:
        ServerError: there is no folder for it that can be written.
    """
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        return None
    home = get_current_settings().home
    if not (home.is_dir() and os.access(home, os.W_OK | os.X_OK)):
        raise ServerError(
            f"{home} cannot be written, and Prefect keeps its database there: set PREFECT_HOME to "
            "a folder of your own"
        )
    server = TemporaryServer()
    os.environ["PREFECT_API_URL"] = server.url
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", TRIES_AGAIN)
    refresh_global_settings_context()
    return server


def _warn(text: str) -> None:
    from flows.monitoring.console import warn  # help and versions do without it

    warn(text)


def _tell_prefect_nothing_more() -> None:
    """Drop what is logged for Prefect from now on: each line would be an error of its own."""
    from prefect.logging.handlers import set_api_log_sink

    set_api_log_sink(lambda _: None)
    CONCLUSION.leave_within = LOST


def _end_with_parent() -> None:
    sys.stdin.read()  # nothing is ever written: it returns when the parent is gone
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )
