"""deploy/prefect.yaml, read by itself and on a real Prefect server with a real worker."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, FlowRun
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate

from flows.options.commands import COMMANDS
from flows.prefect.decorators import Flow
from tests.support import images, paths, servers
from tests.support.processes import python
from tests.support.waiting import until

FILE = paths.ROOT / "deploy" / "prefect.yaml"
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["deployments"]
NIGHTLY = "nightly/nightly-screening"


# --- the file

by_name = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: each["name"])


def test_prefect_understands_the_file_and_every_field_in_it() -> None:
    """Prefect ignores a field that it does not know, such as one that is misspelt."""
    known = PrefectYamlModel.model_validate(yaml.safe_load(FILE.read_text()))
    for deployment, model in zip(DEPLOYMENTS, known.deployments, strict=True):
        assert set(deployment) <= set(type(model).model_fields)


def test_every_flow_is_deployed_but_the_one_for_a_person_at_a_terminal() -> None:
    flows = {deployment["entrypoint"].rsplit(".", 1)[1] for deployment in DEPLOYMENTS}
    ours = {name for name, command in COMMANDS.items() if command.flow}
    assert flows == ours - {"screen"}


@by_name
def test_a_deployment_names_a_flow_and_gives_it_what_it_takes(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    found = getattr(import_module(module), name)
    flow = found.of_prefect() if isinstance(found, Flow) else found  # another test was first
    schema = parameter_schema(flow).model_dump_for_openapi()
    parameters = deployment.get("parameters", {})
    assert set(parameters) <= set(schema["properties"])
    validate(parameters, schema, raise_on_error=True, ignore_required=True)
    assert parameters["settings"] == {}
    if options := parameters.get("options"):
        (needed,) = (
            dict.fromkeys(each.get("required", []), "any")
            for each in schema["definitions"].values()
            if set(options) <= set(each["properties"])
        )
        taken = flow.validate_parameters(parameters | {"options": needed | options})["options"]
        assert taken.model_dump(include=options.keys()) == options


def test_prefect_finds_the_flows_of_all_deployments() -> None:
    """A process that has imported Prefect first, as its workers have."""
    entrypoints = [deployment["entrypoint"] for deployment in DEPLOYMENTS]
    program = (
        "import sys\nfrom prefect.flows import load_flow_from_entrypoint as load\n"
        "for each in sys.argv[1:]: print(load(each, use_placeholder_flow=False).name)"
    )
    done = python("-c", program, *entrypoints)
    assert done.stdout.split() == [each.rsplit(".", 1)[1] for each in entrypoints]


@by_name
def test_a_deployment_is_described_and_runs_one_at_a_time(deployment: dict[str, Any]) -> None:
    assert deployment["description"]
    assert "slidewatch" in deployment["tags"]
    assert deployment["work_pool"]["name"] == "slidewatch"
    limit = deployment["concurrency_limit"]
    assert limit["limit"] == 1
    assert ConcurrencyLimitStrategy(limit["collision_strategy"])


@by_name
def test_a_schedule_is_valid_and_in_the_time_zone_of_the_nights(deployment: dict[str, Any]) -> None:
    for schedule in deployment.get("schedules", []):
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert schedule["timezone"] == deployment["parameters"]["options"]["timezone"]
    assert ("schedules" in deployment) == (deployment["name"] == "nightly-screening")


# --- the file on a server

SLOW = 240.0  # seconds


@dataclass(frozen=True)
class Site:
    """A home with a store in it, a Prefect server, and a worker that works there."""

    home: Path
    api: str
    environment: dict[str, str]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program as the operator of this site would, its words in ``log``."""
        with (self.home / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    def run(self, *command: str, expect: int | None = 0) -> str:
        """What a program says; it must end as expected."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SLOW,
            check=False,
        )
        assert expect in (None, done.returncode), done.stdout + done.stderr + self.log()
        return done.stdout + done.stderr

    def log(self) -> str:
        return (self.home / "log").read_text()[-20_000:]

    def ask(self, question: Callable[[PrefectClient], Coroutine[Any, Any, Any]]) -> Any:
        """Ask the server something."""

        async def answer() -> Any:
            async with PrefectClient(self.api) as client:
                return await question(client)

        return asyncio.run(answer())

    def arrive(self, inbox: str, *, patient: int, cells: int = 10) -> Path:
        """New cells, in a folder of their own in an inbox; they are old enough to be taken."""
        folder = self.home / inbox / f"patient-{patient}"
        images.write_cells(folder, 1, cells, seed=patient, first=patient)
        for path in folder.rglob("*.png"):
            os.utime(path, (0, 0))
        return folder

    def begin(self, inbox: str) -> UUID:
        """Start a run of the nightly deployment for an inbox that is a series."""
        said = self.run("prefect", "deployment", "run", NIGHTLY, *self.given(inbox))
        found = re.search(r"UUID: (\S+)", said)
        assert found, said
        return UUID(found[1])

    def given(self, inbox: str) -> list[str]:
        return ["--param", f'options={{"inbox": "{inbox}", "series": "{inbox}"}}']

    def read(self, run: UUID) -> FlowRun:
        return self.ask(lambda client: client.read_flow_run(run))

    def wait(self, run: UUID, *states: str) -> FlowRun:
        """Wait until a run is in one of these states; Completed whatever its light."""

        def there() -> FlowRun | None:
            state = (found := self.read(run)).state
            names = {state.name, state.type.value.capitalize()} if state else set()
            return found if names & set(states) else None

        return until(there, SLOW, told=lambda: f"{self.read(run).state!r}\n{self.log()}")

    def engine(self, run: UUID) -> psutil.Process:
        """The process that the worker has started for a run."""
        (engine,) = [
            process
            for process in processes_with(f"PREFECT__FLOW_RUN_ID={run}")
            if process.cmdline()[-2:] == ["-m", "prefect.engine"]
        ]
        return engine

    def report(self, series: str) -> Path:
        """The report on images of the only night of a series."""
        (report,) = (self.home / "store/reports/images").rglob(f"{series}-*.parquet")
        return report


def processes_with(variable: str) -> list[psutil.Process]:
    """Every process that has this in its environment, by whomever it was started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            if variable.encode() in environment.split(b"\0"):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All that a laboratory would start, in a folder of its own; it ends with the tests."""
    home = tmp_path_factory.mktemp("site")
    port = servers.free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "SLIDE"))}
    environment |= {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(paths.ROOT),
        "SLIDEWATCH_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }
    (home / "slidewatch.toml").write_text('store = "store"\nworkers = 1\nshard_rows = 8\n')
    (home / "log").touch()
    site = Site(home, environment["PREFECT_API_URL"], environment)
    try:
        site.start("prefect", "server", "start", "--port", str(port), "--no-ui")
        until(lambda: servers.answers(site.api), SLOW, told=site.log)
        site.run("prefect", "work-pool", "create", "slidewatch", "--type", "process")
        site.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE))
        smears = home / "smears"
        images.write_cells(smears, 12, 12, seed=1)
        command, given = "flows.commands.main", ("--images", str(smears))
        site.run(command, "train", *given, "--model", "m", "--epochs", "1", "--side", "32")
        site.run(command, "fit", *given, "--batch", "first")
        site.start("prefect", "worker", "start", "--pool", "slidewatch")
        yield site
    finally:
        for process in processes_with(f"PREFECT_HOME={home / 'prefect'}"):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def rows_of(report: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.ParquetFile(report).read().to_pylist()
    return found


@pytest.mark.slow
def test_a_night_that_is_killed_is_finished_when_it_runs_again(site: Site) -> None:
    site.arrive("killed", patient=63, cells=400)
    run = site.begin("killed")
    batches = site.home / "store/batches"
    until(lambda: len(list(batches.glob("killed-*/ledger/m/*.json"))) >= 3, SLOW, told=site.log)
    site.engine(run).kill()
    # The worker reports a crash after the run did, and would undo an earlier retry.
    until(lambda: "worker - Check whether" in site.log(), SLOW, told=site.log)
    done = {path.name: path.stat().st_mtime_ns for path in batches.glob("killed-*/ledger/m/*")}
    assert 3 <= len(done) < 50
    site.arrive("killed", patient=64)
    site.run("prefect", "flow-run", "retry", str(run))
    site.wait(run, "Completed")
    now = {path.name: path.stat().st_mtime_ns for path in batches.glob("killed-*/ledger/m/*")}
    assert {name: now[name] for name in done} == done
    rows = rows_of(site.report("killed"))
    assert len(rows) == len({row["uri"] for row in rows}) == 400
    assert not any("patient-64" in row["uri"] for row in rows)


@pytest.mark.slow
def test_a_schedule_starts_a_night_that_is_screened_and_shown(site: Site) -> None:
    site.arrive("scheduled", patient=65)
    parameters = {"options": {"inbox": "scheduled", "series": "scheduled"}}
    schedule = DeploymentScheduleCreate(
        schedule=IntervalSchedule(interval=timedelta(seconds=20)), parameters=parameters
    )

    async def add(client: PrefectClient) -> tuple[UUID, UUID]:
        deployment = await client.read_deployment_by_name(NIGHTLY)
        assert [str(each.schedule.cron) for each in deployment.schedules] == ["0 2 * * *"]
        (made,) = await client.create_deployment_schedules(deployment.id, [schedule])
        return deployment.id, made.id

    deployment, made = site.ask(add)

    def finished() -> list[FlowRun]:
        runs: list[FlowRun] = site.ask(lambda client: client.read_flow_runs())
        return [
            run
            for run in runs
            if run.auto_scheduled
            and run.parameters["options"]["series"] == "scheduled"
            and run.state
            and run.state.is_completed()
        ]

    try:
        # Two: the second is another run of the same night, and finds it published.
        runs = until(lambda: len(finished()) >= 2 and finished(), SLOW, told=site.log)
    finally:
        site.ask(lambda client: client.delete_deployment_schedule(deployment, made))
    rows = rows_of(site.report("scheduled"))
    assert [row["status"] for row in rows] == ["scored"] * 10
    night = runs[0].expected_start_time.date().isoformat()
    assert {run.name for run in runs} == {site.report("scheduled").stem} == {f"scheduled-{night}"}
    of_runs = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id for run in runs]))
    artifacts = site.ask(lambda client: client.read_artifacts(artifact_filter=of_runs))
    assert {artifact.key for artifact in artifacts} == {"slidewatch-night"}


@pytest.mark.slow
def test_two_runs_of_one_night_do_not_work_at_once(site: Site) -> None:
    """On the server the second waits for the first; one that came another way is told who works."""
    site.arrive("twice", patient=66, cells=400)
    first = site.begin("twice")
    second = site.begin("twice")
    night = site.home / "store/batches"
    until(lambda: list(night.glob("twice-*/ledger/m/*.json")), SLOW, told=site.log)
    (working,) = [run for run in (first, second) if site.read(run).state.name == "Running"]
    engine = site.engine(working)
    engine.suspend()  # so that it is not done before the others have looked
    try:
        given = ("--inbox", "twice", "--series", "twice")
        said = site.run("flows.commands.main", "nightly", *given, expect=1)
        assert f"process {engine.pid}" in said, said
        assert "wait for it with --wait" in said
        (waiting,) = {first, second} - {working}
        site.wait(waiting, "AwaitingConcurrencySlot")
    finally:
        engine.resume()
    for run in (first, second):
        site.wait(run, "Completed")
    starts = sorted((site.read(run).start_time, site.read(run).end_time) for run in (first, second))
    assert starts[0][1] <= starts[1][0]
    assert len(rows_of(site.report("twice"))) == 400
