"""A Dask scheduler and workers as an operator starts them: by commands, with TLS."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dask
import psutil

from flows.settings import Settings
from tests.support.certificates import make_certificates
from tests.support.paths import ROOT


@dataclass
class Operated:
    """The processes, by role, and how to reach them."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Of the scheduler, once it is up and has written all of its file."""
        file, ends = self.folder / "scheduler.json", time.monotonic() + 60
        while not (file.exists() and file.read_text().rstrip().endswith("}")):
            assert self.processes[0].poll() is None, (self.folder / "scheduler.log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.05)
        return str(json.loads(file.read_text())["address"])

    def settings(self, store: str, **more: object) -> Settings:
        made = {"store": store, "cluster": "scheduler", "scheduler": self.address}
        return Settings(**(made | more))  # type: ignore[arg-type]

    def tls(self, role: str, pair: str = "certificates", ca: str = "certificates") -> list[str]:
        """The files of an authority, of a role's certificate and of its key."""
        at = self.folder / pair / "tls"
        ca_file = self.folder / ca / "tls" / "ca.pem"
        return [str(ca_file), str(at / f"{role}.pem"), str(at / f"{role}-key.pem")]

    def client(self, pair: str = "certificates", ca: str = "certificates") -> dask.config.set:
        """Put a client's certificate into Dask's configuration, for a block or for good."""
        names = ("ca-file", "client.cert", "client.key")
        return dask.config.set(
            {
                f"distributed.comm.tls.{name}": file
                for name, file in zip(names, self.tls("client", pair, ca), strict=True)
            }
        )

    def start(self, role: str, *arguments: str, **environment: str) -> int:
        """Start a `dask` command, and return its place among the processes."""
        ca, certificate, key = self.tls(role)
        command = [sys.executable, "-m", "dask", role, *arguments]
        command += ["--host", "127.0.0.1", "--protocol", "tls", "--tls-ca-file", ca]
        command += ["--tls-cert", certificate, "--tls-key", key]
        paths = [environment.pop("PYTHONPATH", ""), str(ROOT)]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DASK_", "PREFECT_"))}
        with (self.folder / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=inherited | environment | {"PYTHONPATH": ":".join(filter(None, paths))},
            )
        self.processes.append(process)
        return len(self.processes) - 1

    def start_worker(self, name: str, **environment: str) -> int:
        """Start a worker of one thread."""
        arguments = ["--nthreads", "1", "--name", name, "--local-directory", str(self.folder)]
        return self.start("worker", self.address, *arguments, "--no-dashboard", **environment)

    def kill(self, which: int) -> None:
        """End a command and all that it has started as a power cut does."""
        process = self.processes[which]
        family = psutil.Process(process.pid).children(recursive=True)
        for each in [process, *family]:
            each.send_signal(signal.SIGKILL)
        process.wait()
        psutil.wait_procs(family, timeout=10)


@contextmanager
def operated(folder: Path, *, workers: int, **scheduler_environment: str) -> Iterator[Operated]:
    """A scheduler with some workers."""
    folder.mkdir(parents=True, exist_ok=True)
    make_certificates(folder / "certificates")
    found = Operated(folder)
    try:
        file = ["--scheduler-file", str(folder / "scheduler.json"), "--port", "0"]
        found.start("scheduler", *file, "--no-dashboard", **scheduler_environment)
        for i in range(workers):
            found.start_worker(f"worker-{i}")
        with found.client():
            yield found
    finally:
        for i, process in enumerate(found.processes):
            if process.poll() is None:
                found.kill(i)
