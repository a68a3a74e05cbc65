"""A night in the containers of deploy/compose.yaml, in which one of its workers is killed.

Docker Compose starts them by podman. Only what ``otherwise`` says is not as in the file: the names
of images, a port that is free, and sizes for a test. Images stay on this machine, so that the next
run builds them from its cache; ``podman image prune --all`` removes them.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml

from tests.support import certificates, containers, paths, servers
from tests.support.images import write_cells
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, containers.needs_containers]
DEPLOY = paths.ROOT / "deploy"
PROJECT = "slidewatch-test"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
OURS = "localhost/standin/slidewatch"
NIGHT = "nightly/nightly-screening"
CELLS = 160
SHARD = 4


@dataclass(frozen=True)
class Composed:
    """The containers of compose.yaml, in a folder with what an operator writes there."""

    engine: containers.Podman
    folder: Path
    port: int

    def compose(self, *words: str, minutes: float = 20) -> str:
        """Return what a command of Docker Compose says; it must succeed."""
        command = ("docker-compose", "--project-name", PROJECT, "--project-directory")
        return containers.said(
            *command,
            str(self.folder),
            *words,
            env=self.engine.environment,
            timeout=minutes * containers.MINUTES,
        )

    def inside(self, *words: str) -> str:
        """Return what a command says in the container of the Prefect worker."""
        return self.engine.run("exec", f"{PROJECT}-prefect-worker-1", *words, minutes=20)

    def logged(self) -> list[dict[str, Any]]:
        """Read the lines of the log that the Prefect worker and its runs have written."""
        said_there = self.engine.run("logs", f"{PROJECT}-prefect-worker-1").splitlines()
        return [json.loads(line) for line in said_there if line.startswith("{")]

    def shards(self, series: str) -> list[dict[str, Any]]:
        """The lines on complete shards of a series' night."""
        return [
            line
            for line in self.logged()
            if "tries" in line and str(line.get("batch", "")).startswith(f"{series}-")
        ]

    def rows(self, series: str) -> str:
        """Read the report on images of a series, without what differs between any two nights."""
        return self.inside(
            *("slidewatch", "query", "--format", "csv", "--quiet"),
            "SELECT * EXCLUDE (batch, batch_date, scored_at) FROM images "
            f"WHERE batch LIKE '{series}-%' ORDER BY uri",
        )


def otherwise(images: dict[str, str], port: int) -> str:
    """Write what is not as in compose.yaml, as a file for Docker Compose to merge."""
    changed: dict[str, Any] = {name: {"image": image} for name, image in images.items()}
    changed["prefect-worker"]["environment"] = {
        "SLIDEWATCH_SHARD_ROWS": str(SHARD),
        "SLIDEWATCH_LOGS": "json",  # whose lines say which worker computed which shard
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    changed["prefect-server"]["ports"] = [f"127.0.0.1:{port}:4200"]
    text = yaml.safe_dump({"services": changed})
    return text.replace("ports:", "ports: !override")  # where lists are otherwise joined


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[containers.Podman]:
    with containers.podman(tmp_path_factory.mktemp("podman")) as engine:
        yield engine


def build(engine: containers.Podman, checkout: Path) -> str:
    """Build our image from a checkout, and return the log."""
    given = ("--build-context", f"{containers.PYTHON}=container-image://{engine.base()}")
    return engine.build(checkout, checkout / "deploy" / "Dockerfile", OURS, *given)


@pytest.fixture(scope="module")
def composed(
    engine: containers.Podman, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Composed]:
    """Start everything as the guide says, with rendered cells to train on and to screen."""
    build(engine, paths.ROOT)
    images = dict.fromkeys((name for name, s in SERVICES.items() if "build" in s), OURS)
    images |= {name: engine.standin(name) for name in set(SERVICES) - set(images)}
    folder, port = tmp_path_factory.mktemp("deploy"), servers.free_port()
    for name in ("compose.yaml", "prefect.yaml"):
        shutil.copy(DEPLOY / name, folder)
    (folder / "compose.override.yaml").write_text(otherwise(images, port))
    secrets = ("POSTGRES_PASSWORD", "PREFECT_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
    given = {name: os.urandom(24).hex() for name in secrets} | {"IMAGES": str(folder / "images")}
    (folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in given.items()))
    smears = folder / "images" / "labelled"
    write_cells(smears, 12, 12, seed=1)
    night = folder / "images" / "inbox"
    write_cells(night, 4, CELLS // 4, seed=2, first=60, parasitized=0.2)
    for path in night.rglob("*.png"):  # long there, so that the night takes them
        os.utime(path, (0, 0))
    tls = certificates.make_certificates(folder)
    for path in (tls, *tls.iterdir()):
        os.chown(path, 10001, 10001)
    site = Composed(engine, folder, port)
    try:
        with containers.health_checks(engine, PROJECT):
            site.compose("up", "--detach", "--wait")
            pool = ("slidewatch", "--type", "process", "--overwrite")
            site.inside("prefect", "work-pool", "create", *pool)
            site.inside(
                "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml"
            )
            labelled = ("--images", "/images/labelled")
            site.inside("slidewatch", "train", *labelled, "--epochs", "1", "--side", "32")
            site.inside("slidewatch", "fit", *labelled, "--batch", "first")
            yield site
    finally:
        site.compose("down", "--volumes", "--timeout", "5")


def screen(site: Composed, series: str) -> str:
    """Run a night of the inbox by its deployment, as a series of its own; return what it says."""
    given = ("--param", f'options={{"inbox": "/images/inbox", "series": "{series}"}}')
    return site.inside("prefect", "deployment", "run", NIGHT, *given, "--watch")


def test_a_doctor_finds_the_containers_well(composed: Composed) -> None:
    said_by_it = composed.inside("slidewatch", "doctor")
    assert "scheduler: 2 workers answer" in said_by_it, said_by_it


def test_prefects_pages_ask_for_a_password(composed: Composed) -> None:
    with urlopen(f"http://127.0.0.1:{composed.port}/api/health") as health:
        assert health.status == 200
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"http://127.0.0.1:{composed.port}/api/admin/version")


def test_a_night_whose_worker_is_killed_gives_the_report_of_an_undisturbed_one(
    composed: Composed,
) -> None:
    assert "finished successfully" in screen(composed, "undisturbed")
    worker = f"{PROJECT}-dask-worker-1"
    pid = composed.engine.inspect(worker, ".State.Pid")
    with ThreadPoolExecutor() as pool:
        night = pool.submit(screen, composed, "killed")
        until(lambda: night.done() or len(composed.shards("killed")) >= 3, 10 * containers.MINUTES)
        os.kill(pid, signal.SIGKILL)
        done = len(composed.shards("killed"))
        assert "finished successfully" in night.result()
    assert 3 <= done < CELLS // SHARD
    until(
        lambda: composed.engine.inspect(worker, ".State.Pid") not in (0, pid),
        2 * containers.MINUTES,
    )
    shards = composed.shards("killed")
    assert len(shards) == len(composed.shards("undisturbed")) == CELLS // SHARD
    assert max(shard["tries"] for shard in shards) > 1
    report = composed.rows("killed")
    assert len(report.splitlines()) == 1 + CELLS
    assert report == composed.rows("undisturbed")
