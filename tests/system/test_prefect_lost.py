"""A night whose Prefect server is lost: Prefect is a window on the night, not a part of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.settings import Settings
from storage.batches.ledger import is_announced, list_seals
from storage.batches.manifests import load_batch
from storage.store import Store
from tasks.synthetic.cells import write_collection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP]),
]

LOST = "Prefect's temporary server has"


def night(settings: Settings, folder: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Begin a night as an operator does, and return it with its server when it is under way."""
    write_collection(
        folder / "night", patients=4, cells_per_patient=10, parasitized_fraction=0.5, seed=9
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "SLIDEWATCH_WORKERS": "1"}
    command = [sys.executable, "-m", "flows.commands.main", "screen", "--batch", "night"]
    process = subprocess.Popen(
        [*command, "--images", folder / "night", "--store", settings.store, "--shard-rows", "4"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ledger = Path(settings.store) / "batches" / "night" / "ledger"
    while not len(list(ledger.glob("*/*.json"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    (server,) = [c for c in children if "flows.monitoring.prefect_server" in c.cmdline()]
    return process, server


def test_a_night_goes_on_without_its_server_and_ends_with_its_outcome(
    tiny_ready: Settings, tmp_path: Path, sign: signal.Signals
) -> None:
    process, server = night(tiny_ready, tmp_path)
    server.send_signal(sign)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert out.startswith("batch night: ")
    assert "40 scored, 0 failed" in out
    assert [line for line in err.splitlines() if LOST not in line] == []
    assert err.count(LOST) == 1
    assert not server.is_running()
    # The next run of the same night tells Prefect of it.
    batch = load_batch(Store(tiny_ready.store), "night")
    (seal,) = list_seals(Store(tiny_ready.store), batch)
    assert not is_announced(Store(tiny_ready.store), batch, seal)


def test_a_night_that_is_told_to_end_ends_though_its_server_is_lost(
    tiny_ready: Settings, tmp_path: Path, sign: signal.Signals
) -> None:
    process, server = night(tiny_ready, tmp_path)
    server.send_signal(sign)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("slidewatch: stopped; run the same command again to go on\n")
    assert not server.is_running()
