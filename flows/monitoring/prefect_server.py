"""Start a Prefect server for one command, where the operator has none.

Prefect would start one itself when the flow begins. A server that starts before the flow's imports
is ready when they are done. It watches the process that started it, and ends if that is killed.
"""

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from urllib.error import URLError
from urllib.request import urlopen

STARTUP = 60.0  # seconds


class ServerError(Exception):
    """Prefect's server does not start."""


class TemporaryServer:
    """A Prefect server that answers this process alone, and ends with it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  as long as the server
        quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
        # Python files that lie in the working folder, beside images, are no modules of ours.
        quiet |= {"PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.monitoring.prefect_server", str(port)],
            stdin=subprocess.PIPE,
            stderr=self._said,
            env=os.environ | quiet,
            start_new_session=True,  # Ctrl-C is for the flow, which has something left to tell it
        )
        # What Prefect registers after this, to send its last events, happens before it.
        atexit.register(self._process.terminate)

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            ServerError: it does not, and the last that it said.
        """
        ends = time.monotonic() + STARTUP
        while time.monotonic() < ends and self._process.poll() is None:
            try:
                with urlopen(f"{self.url}/health", timeout=5):
                    return
            except (URLError, TimeoutError, ConnectionError):
                time.sleep(0.02)
        self._process.kill()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").split("Error:")[-1].strip()
        raise ServerError(f"Prefect's temporary server does not start: {said or 'too slow'}")


def start_server() -> TemporaryServer | None:
    """Begin to start a server for this process, unless a Prefect API is configured."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        return None
    server = TemporaryServer()
    os.environ["PREFECT_API_URL"] = server.url
    refresh_global_settings_context()
    return server


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
