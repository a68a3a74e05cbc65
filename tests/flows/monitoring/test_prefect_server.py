import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from flows.commands.main import _call
from flows.commands.status import StatusOutcome
from flows.monitoring import prefect_server as module
from flows.monitoring.ending import CONCLUSION
from flows.monitoring.prefect_server import ServerError, TemporaryServer, start_server
from flows.outcome import Outcome
from flows.settings import Settings

COMMAND = """
from flows.monitoring.prefect_server import start_server
server = start_server()
server.wait()
from prefect import flow
@flow
def night(): return 7
assert night() == 7
print(server.url, flush=True)
"""


def run(
    tmp_path: Path, ending: str = "", folder: Path | None = None, *options: str
) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= {"PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    return subprocess.Popen(
        [sys.executable, *options, "-c", COMMAND + ending],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_flow_runs_on_it_and_it_ends_with_the_command(tmp_path: Path) -> None:
    out, err = run(tmp_path).communicate(timeout=120)
    assert out.startswith("http://127.0.0.1:")
    assert not err
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{out.strip()}/health")


def test_python_files_in_the_working_folder_are_not_run(tmp_path: Path) -> None:
    """Whoever may put files among the images must not run code as the operator."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("uvicorn.py", "uvloop.py", "prefect.py", "multiprocessing.py"):
        (folder / name).write_text(
            f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit"
        )
    # An installed command has its own folder first in the path, and not that where it is called.
    out, err = run(tmp_path, "", folder, "-P").communicate(timeout=120)
    assert out.startswith("http://127.0.0.1:"), err
    assert not (tmp_path / "ran").exists()


def test_it_does_not_outlive_a_command_that_is_killed(tmp_path: Path) -> None:
    process = run(tmp_path, "import time; time.sleep(600)")
    assert process.stdout
    assert process.stdout.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    process.communicate()


KILLED = """
import os, signal
from flows.commands.main import _call
from flows.monitoring.prefect_server import start_server
from flows.monitoring.telemetry import observed
from flows.outcome import Outcome
from flows.settings import Settings
from prefect import flow

class Seven(Outcome):
    def text(self): return "seven"

server = start_server()
os.kill(server._process.pid, signal.SIGKILL)  # while it starts
server.wait()
os.kill(server._process.pid, signal.SIGKILL)  # before the first call of the flow

@flow
@observed()
def night(settings: Settings | None = None) -> Seven: return Seven()

outcome, failure = _call(night, {}, Settings(), server)
print(outcome.text(), failure, flush=True)
"""


TINY = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[TemporaryServer]:
    """A server that answers at once, and is no Prefect."""
    monkeypatch.setattr(module, "SERVE", ("-c", TINY))
    monkeypatch.setattr(CONCLUSION, "begun", False)
    server = TemporaryServer()
    yield server
    server._ending = True
    server._process.kill()


def test_a_killed_server_is_started_again_and_not_for_ever(
    tiny: TemporaryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.wait()
    assert not tiny.again()  # nothing is wrong with it
    for _ in range(module.STARTS - 1):
        tiny._process.kill()
        tiny._process.wait()
        assert tiny.again()
        with urlopen(f"{tiny.url}/health"):
            pass
    tiny._process.kill()
    tiny._process.wait()
    assert not tiny.again()
    assert capsys.readouterr().err.count("it is started again") == module.STARTS - 1


def test_a_flow_that_never_began_is_called_again(tiny: TemporaryServer) -> None:
    calls = []

    def night(settings: Settings) -> Outcome:
        calls.append(settings)
        if len(calls) == 1:
            tiny._process.kill()
            tiny._process.wait()
            raise RuntimeError("Failed to reach API")
        return StatusOutcome(
            store="s", models=[], statistics=[], detectors=[], sites=[], batches=[], damaged=[]
        )

    tiny.wait()
    outcome, failure = _call(night, {}, Settings(), tiny)
    assert (len(calls), failure, outcome.failed) == (2, None, False)


@pytest.mark.slow
def test_a_server_that_is_killed_before_the_flow_begins_is_started_again(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= {"PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "seven None\n", done.stderr
    assert "was killed while it started: it is started again" in done.stderr
    assert "was lost before the flow began: it is started again" in done.stderr


def test_a_server_that_is_slow_is_waited_for_and_one_that_hangs_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert module.STARTUP >= 300
    monkeypatch.setattr(module, "STARTUP", 0.0)
    with pytest.raises(ServerError, match="it has not answered for 0 seconds"):
        TemporaryServer().wait()


def test_a_server_that_is_configured_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(module, "TemporaryServer", lambda: pytest.fail("started"))
    with temporary_settings({PREFECT_API_URL: "http://prefect.example/api"}):
        assert start_server() is None


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_KEEPALIVE_TIMEOUT", "never")
    with pytest.raises(ServerError, match=r"(?s)does not start: .*integer"):
        TemporaryServer().wait()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "prefect"
    process = run(home)
    _, err = process.communicate(timeout=120)
    assert process.returncode
    assert f"{home} cannot be written" in err
    assert "set PREFECT_HOME to a folder of your own" in err
