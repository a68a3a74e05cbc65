"""A coordinator that is stopped while it publishes, and comes back after another has taken over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.night import screen
from storage.batches.manifests import load_batch
from storage.parquet import read_footer, read_table
from storage.reports.tables import ATTEMPT, report_path
from storage.store import Store
from storage.verification import batch_checks

KINDS = ("images", "slides", "batches")
# It stops as soon as the report on images is there, with a lease that is soon lost.
STOPS = """
import os, signal, sys
from functools import partial

if __name__ == "__main__":
    from flows.commands.main import main
    from storage import leases
    from storage.store import Store

    honest = Store.reveal

    def reveal(self, stage, *parts, **once):
        honest(self, stage, *parts, **once)
        if parts[:2] == ("reports", "images"):
            os.kill(os.getpid(), signal.SIGSTOP)

    Store.reveal = reveal
    leases.lease = partial(leases.lease, lifetime=4, beat=1)
    main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_coordinator_that_is_stopped_as_it_publishes_changes_nothing_when_it_goes_on(
    images: Path, ready: Settings, scheduler: str, tmp_path: Path
) -> None:
    settings = ready.model_copy(update={"cluster": "scheduler", "scheduler": scheduler})
    (tmp_path / "stops.py").write_text(STOPS)
    options = {"store": settings.store, "cluster": "scheduler", "scheduler": scheduler}
    words = [f"--{name}={value}" for name, value in options.items()]
    given = ["screen", f"--images={images / 'night'}", "--batch=night", *words]
    first = subprocess.Popen(
        [sys.executable, tmp_path / "stops.py", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process = psutil.Process(first.pid)
    deadline = time.monotonic() + 120
    while process.status() != psutil.STATUS_STOPPED:
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    store = Store(settings.store)
    time.sleep(4)
    other = str(images / "smears")
    second = screen.fn(Screen(images=other, batch="night", force=True), settings)
    before = {path: path.read_bytes() for path in Path(store.root).rglob("*") if path.is_file()}
    first.send_signal(signal.SIGCONT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 1
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("slidewatch screen: the lease ")
    assert f"taken over by {psutil.Process().username()} on " in last
    assert f"(process {os.getpid()}, " in last
    assert "Traceback" not in err
    after = {path: path.read_bytes() for path in Path(store.root).rglob("*") if path.is_file()}
    assert after == before
    day = load_batch(store, "night").batch_date
    paths = [report_path("night", day, kind) for kind in KINDS]
    assert {read_footer(store, *path).metadata[ATTEMPT] for path in paths} == {b"2"}
    assert read_table(store, *paths[0]).num_rows == second.images
    for check in batch_checks(store, "night"):
        check.verify()
    assert screen.fn(Screen(images=other, batch="night"), settings).repeated
