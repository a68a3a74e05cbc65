"""Containers for tests: podman, Docker Compose on top of it, and stand-ins for images not here."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

from tests.support.needs import needs
from tests.support.paths import ROOT

PROGRAMS = ("podman", "docker-compose", "debootstrap")
STANDINS = ROOT / "tests" / "deploy" / "standins"
PYTHON = "python:3.11.15-slim-trixie"  # the base that deploy/Dockerfile names
BASE = "localhost/standin/python"
MINUTES = 60.0

needs_containers = needs(
    "containers",
    os.geteuid() == 0 and all(map(shutil.which, PROGRAMS)),
    f"not root, or without {', '.join(PROGRAMS)}",
)


@dataclass(frozen=True)
class Podman:
    """podman with a configuration of its own."""

    environment: dict[str, str]

    def run(self, *words: str, minutes: float = 10) -> str:
        """Return what a podman command says; it must succeed."""
        return said("podman", *words, env=self.environment, timeout=minutes * MINUTES)

    def has(self, image: str) -> bool:
        """Return whether an image is on this machine."""
        command = ["podman", "image", "exists", image]
        return subprocess.run(command, env=self.environment, check=False).returncode == 0

    def inspect(self, container: str, what: str) -> Any:
        """Return a part of what podman knows of a container, such as ``.State.Pid``."""
        return json.loads(self.run("inspect", "--format", f"{{{{json {what}}}}}", container))

    def build(self, context: Path, file: Path, image: str, *options: str) -> str:
        """Build an image, and return the log; pip and apt reach what they reach here."""
        links = os.environ.get("PIP_FIND_LINKS", "")
        volumes = ["--volume", f"{links}:{links}:ro"] if Path(links).is_absolute() else []
        return self.run(
            *("build", "--format", "docker", "--network", "host", *volumes, *options),
            *("--file", str(file), "--tag", image, str(context)),
            minutes=120,
        )

    def base(self) -> str:
        """Return an image in the place of Dockerfile's base: that itself if it is here."""
        if self.has(PYTHON):
            return PYTHON
        if not self.has(BASE):
            self._make_base()
        return BASE

    def standin(self, name: str) -> str:
        """Build an image of ``standins``, and return its name."""
        image = f"localhost/standin/{name}"
        given = ("--build-arg", f"BASE={self.base()}")
        self.build(STANDINS, STANDINS / f"{name}.Dockerfile", image, *given)
        return image

    def _make_base(self) -> None:
        """Import Debian with the Python that runs this test, and pip that reaches what it does."""
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        here, ours = Path(sys.base_prefix), shutil.ignore_patterns("site-packages", "test")
        with TemporaryDirectory() as folder:
            root, local = Path(folder), Path(folder) / "usr/local"
            debian = "--include=ca-certificates,python3"  # and so the libraries of a Python
            said("debootstrap", "--variant=minbase", debian, "trixie", folder, timeout=60 * MINUTES)
            shutil.copytree(here / "lib" / python, local / "lib" / python, ignore=ours)
            shutil.copy(here / "bin" / python, local / "bin")
            for library in (here / "lib").glob("libpython3*"):
                shutil.copy(library, local / "lib", follow_symlinks=False)
            for name in ("python", "python3"):
                (local / "bin" / name).symlink_to(python)
            certificates = Path("etc/ssl/certs/ca-certificates.crt")
            shutil.copy(Path("/") / certificates, root / certificates)
            said("chroot", folder, "ldconfig", timeout=MINUTES)
            said("chroot", folder, python, "-m", "ensurepip", timeout=5 * MINUTES)
            tar = root.with_suffix(".tar")
            said("tar", "-C", folder, "-cf", str(tar), ".", timeout=5 * MINUTES)
        pip = [f"ENV {k}={v}" for k, v in os.environ.items() if k.startswith("PIP_")]
        try:
            self.run("import", *(f"--change={each}" for each in pip), str(tar), BASE)
        finally:
            tar.unlink()


def said(*command: str, env: dict[str, str] | None = None, timeout: float) -> str:
    """Return what a command says; it must succeed."""
    done = subprocess.run(
        command,
        env=env,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-20_000:]}"
    return done.stdout


@contextmanager
def podman(folder: Path) -> Iterator[Podman]:
    """Serve podman's API on a socket, for Docker Compose, with limits that this machine allows."""
    files, processes = (
        resource.getrlimit(limit)[1] for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
    )
    runtime = '[engine]\nruntime = "runc"\n' if shutil.which("runc") else ""
    limits = f'["nofile={files}:{files}", "nproc={processes}:{processes}"]'
    (folder / "containers.conf").write_text(f"{runtime}[containers]\ndefault_ulimits = {limits}\n")
    socket = folder / "podman.sock"
    environment = os.environ | {
        "CONTAINERS_CONF_OVERRIDE": str(folder / "containers.conf"),
        "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        "DOCKER_HOST": f"unix://{socket}",
    }
    command = ["podman", "system", "service", "--time", "0", environment["DOCKER_HOST"]]
    with (folder / "podman.log").open("w") as log:
        service = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while not socket.exists():
            assert service.poll() is None, (folder / "podman.log").read_text()
            time.sleep(0.1)
        yield Podman(environment)
    finally:
        service.terminate()
        service.wait()


@contextmanager
def health_checks(engine: Podman, project: str) -> Iterator[None]:
    """Check containers that are not healthy yet, as podman leaves to systemd where that runs."""
    over = Event()

    def check() -> None:
        while not over.wait(15):
            given = ["--filter", f"label=com.docker.compose.project={project}"]
            for health in ("starting", "unhealthy"):
                names = engine.run("ps", "--quiet", *given, "--filter", f"health={health}")
                for name in names.split():
                    command = ["podman", "healthcheck", "run", name]
                    subprocess.run(
                        command, env=engine.environment, capture_output=True, check=False
                    )

    thread = Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
