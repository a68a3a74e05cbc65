"""The server of the pages, as a process of its own: what it does when it is told to end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.settings import UsageError
from flows.smears.commands.review.serve import _listening
from storage.store import Store
from tests.support.paths import ROOT
from tests.support.reading import night


def test_ctrl_c_ends_it_while_a_form_is_half_sent_and_strangers_leave_no_trace(
    store_with_model: Store, tmp_path: Path
) -> None:
    night(store_with_model, tmp_path / "cells")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.commands.main", "review", "serve", "--port", str(port),
         "--store", store_with_model.url],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    address = ""
    while not address:
        line = process.stderr.readline()
        assert line, process.wait()
        address = "".join(re.findall(r"http://[\d.:]+(/\S+/)$", line.strip()))

    def sent(request: str) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(f"{request}\r\nHost: 127.0.0.1:{port}\r\n".encode())
        return client

    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for path in ("/", address):
        with sent(f"GET {path} HTTP/1.1") as stranger:
            stranger.sendall(upgrade.encode())
            assert stranger.recv(100).startswith(b"HTTP/1.1 403")
    form = sent(f"POST {address}reader HTTP/1.1")
    form.sendall(f"Origin: http://127.0.0.1:{port}\r\nContent-Length: 50\r\n\r\nread".encode())
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    print(f"ended after {time.monotonic() - began:.1f} s")
    form.close()
    assert process.returncode == 0, err
    assert "cells to read" in out
    assert err == ""


def test_a_port_in_use_is_said_so() -> None:
    in_use = pytest.raises(UsageError, match=r"is already in use: give another$")
    with socket.create_server(("127.0.0.1", 0)) as taken, in_use:
        _listening(taken.getsockname()[1])
