"""A Dask scheduler and workers as an operator starts them: commands, machines apart, with TLS."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import dask
import psutil

from flows.settings import Settings
from tests.support.certificates import make_certificates
from tests.support.paths import ROOT


@dataclass(frozen=True)
class Place:
    """Where a process runs: what to put before its command, and its address there."""

    before: tuple[str, ...] = ()
    address: str = "127.0.0.1"


def ip(*arguments: str) -> bool:
    done = subprocess.run(["ip", *arguments], capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def namespaces(count: int) -> Iterator[list[Place] | None]:
    """Network namespaces on one bridge, or None where this machine does not let us make them."""
    chance = uuid4()
    own, network = chance.hex[:6], f"10.{200 + chance.bytes[3] % 50}.{chance.bytes[4]}"
    bridge, names = f"sw{own}", [f"sw{own}-{i}" for i in range(count)]
    with ExitStack() as stack:
        made = os.geteuid() == 0 and ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "del", bridge)
        made = made and ip("addr", "add", f"{network}.1/24", "dev", bridge)
        made = made and ip("link", "set", bridge, "up")
        for i, name in enumerate(names):
            outer, inner = f"o{own}{i}", f"i{own}{i}"
            made = made and ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            made = made and ip("link", "add", outer, "type", "veth", "peer", inner, "netns", name)
            made = made and ip("link", "set", outer, "master", bridge, "up")
            for words in (
                f"addr add {network}.{i + 2}/24 dev {inner}",
                f"link set {inner} up",
                "link set lo up",
            ):
                made = made and ip("-n", name, *words.split())
        before = ("ip", "netns", "exec")
        yield (
            [Place((*before, name), f"{network}.{i + 2}") for i, name in enumerate(names)]
            if made
            else None
        )


@dataclass
class Operated:
    """The processes, by role, and how to reach them."""

    folder: Path
    places: list[Place]
    apart: bool
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

    def start(self, role: str, place: Place, *arguments: str, **environment: str) -> int:
        """Start a `dask` command, and return its place among the processes."""
        ca, certificate, key = self.tls(role)
        command = [*place.before, sys.executable, "-m", "dask", role, *arguments]
        command += ["--host", place.address, "--protocol", "tls", "--tls-ca-file", ca]
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

    def start_worker(self, place: Place, name: str, **environment: str) -> int:
        """Start a worker of one thread."""
        arguments = ["--nthreads", "1", "--name", name, "--local-directory", str(self.folder)]
        return self.start(
            "worker", place, self.address, *arguments, "--no-dashboard", **environment
        )

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
    """A scheduler with so many workers; the last place is free, for one more."""
    folder.mkdir(parents=True, exist_ok=True)
    with namespaces(workers + 2) as apart:
        places = apart or [Place()] * (workers + 2)
        make_certificates(folder / "certificates")
        found = Operated(folder, places, apart is not None)
        try:
            file = ["--scheduler-file", str(folder / "scheduler.json"), "--port", "0"]
            found.start("scheduler", places[0], *file, "--no-dashboard", **scheduler_environment)
            for i in range(workers):
                found.start_worker(places[i + 1], f"worker-{i}")
            with found.client():
                yield found
        finally:
            for i, process in enumerate(found.processes):
                if process.poll() is None:
                    found.kill(i)
