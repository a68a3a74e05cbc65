import os
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from flows.monitoring import prefect_server as module
from flows.monitoring.prefect_server import ServerError, TemporaryServer, start_server

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
