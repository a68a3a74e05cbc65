"""A night through SLURM: its daemons run here, workers are its jobs, and one is cancelled."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from flows.fit import fit
from flows.options.flows import Fit, Screen
from flows.settings import Settings
from flows.smears.night import screen
from storage.store import Store
from tests.support import needs, paths, reports, waiting
from tests.support.servers import free_port

CLASS = "dask_jobqueue.SLURMCluster"
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=night Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A SLURM of one machine, and the environment in which its commands and Dask find it."""

    environment: dict[str, str]

    def say(self, *command: str) -> list[str]:
        """The lines that a SLURM command prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout.split()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        needs.lacking("slurm", f"no {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "logs"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(
        CONFIGURATION.format(host=host, folder=folder, control=free_port(), node=free_port())
    )
    job = yaml.safe_load((paths.ROOT / "deploy" / "slurm" / "jobqueue.yaml").read_text())
    job["jobqueue"]["slurm"] |= {
        "queue": "night",
        "interface": "lo",
        "log-directory": str(folder / "logs"),
        "shared-temp-directory": str(folder),
        "scheduler-options": {"dashboard_address": "127.0.0.1:0"},
    }
    (folder / "jobqueue.yaml").write_text(yaml.safe_dump(job))
    environment = os.environ | {
        "SLURM_CONF": str(configuration),
        "DASK_CONFIG": str(folder / "jobqueue.yaml"),
        "PYTHONPATH": str(paths.ROOT),
    }
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    commands = (
        ["munged", "--force", "--foreground", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    found, processes = Slurm(environment), []

    def logged() -> str:
        return "\n".join(path.read_text() for path in (folder / "logs").iterdir())

    try:
        for command in commands:
            with (folder / "logs" / command[0]).open("wb") as log:
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if command[0] == "munged":
                waiting.until((folder / "munge.socket").exists, 60, told=logged)
        waiting.until(lambda: found.say("sinfo", "-h", "-o", "%t") == ["idle"], 60, told=logged)
        yield found
    finally:
        found.say("scancel", "--user", "root")
        family = [p for each in processes for p in psutil.Process(each.pid).children(True)]
        for each in reversed(processes):
            each.terminate()
            each.wait(timeout=30)
        for child in family:
            if child.is_running():
                child.kill()


@pytest.mark.slow
def test_a_night_of_slurm_jobs_one_of_which_is_cancelled_ends_in_the_same_report(
    slurm: Slurm, store_with_model: Store, cells: Path, tmp_path: Path
) -> None:
    settings = Settings(store=store_with_model.root, workers=1, shard_rows=1)
    fit.fn(Fit(images=str(cells), batch="fitted"), settings)
    shutil.copytree(settings.store, tmp_path / "local")
    local = settings.model_copy(update={"store": str(tmp_path / "local")})
    expected = screen.fn(Screen(images=str(cells), batch="night"), local)

    command = [sys.executable, "-m", "flows.commands.main", "screen", "--images", str(cells)]
    command += ["--batch", "night", "--store", settings.store]
    night = subprocess.Popen(
        [*command, "--cluster", CLASS, "--workers", "2", "--json"],
        env=slurm.environment | {"SLIDEWATCH_SHARD_ROWS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ledger = Path(settings.store) / "batches" / "night" / "ledger" / "tiny"
    while not (ledger.exists() and len(list(ledger.iterdir())) >= 3):
        assert night.poll() is None, night.communicate()
        time.sleep(0.05)
    jobs = slurm.say("squeue", "-h", "-o", "%i", "--state", "running")
    assert 1 <= len(jobs) <= 2
    if len(jobs) == 2:
        slurm.say("scancel", jobs[1])
    out, err = night.communicate(timeout=300)
    assert night.returncode == 0, err
    outcome = json.loads(out)
    assert reports.comparable(outcome["report"]).equals(reports.comparable(expected.report))
    assert reports.summaries_in(settings.store) == reports.summaries_in(local.store)
    waiting.until(lambda: not slurm.say("squeue", "-h"))  # its jobs end with it
