"""The night after a machine went down starts, on a real Prefect server, whatever is configured.

Prefect holds a deployment's only slot for a run by a lease. A run that died renews it no more, and
then the slot is free; but a server that keeps its leases in memory forgets them when it goes down,
and the slot is taken for ever: every later night waits, or is cancelled.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.events.schemas.automations import AutomationCore
from prefect.states import Pending, Running

from tests.support.paths import ROOT
from tests.support.servers import answers, free_port
from tests.support.waiting import until

LEASE = 30  # seconds, the shortest that Prefect knows; it is 300 where nobody says otherwise
SHIPPED = dict(
    line.split("=", 1)
    for line in (ROOT / "deploy" / "environment").read_text().splitlines()
    if "=" in line and not line.startswith("#")
)
STRATEGIES = list(ConcurrencyLimitStrategy)


@contextmanager
def server(home: Path, port: int) -> Iterator[str]:
    """Run a Prefect server with the environment that an operator copies, and cut its power."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= SHIPPED | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": str(LEASE),
        "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        api = environment["PREFECT_API_URL"]
        until(lambda: answers(api), 120, pause=0.5)
        yield api
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def deploy(client: PrefectClient, strategy: ConcurrencyLimitStrategy) -> UUID:
    flow = await client.create_flow_from_name("nightly")
    return await client.create_deployment(
        flow,
        name=strategy.value,
        concurrency_limit=1,
        concurrency_options=ConcurrencyOptions(collision_strategy=strategy),
    )


async def begin(client: PrefectClient, deployment: UUID) -> str:
    """Begin a run as a worker does, and return the name of the state that the server gives it."""
    run = await client.create_flow_run_from_deployment(deployment)
    given = await client.set_flow_run_state(run.id, Pending())
    assert given.state
    if given.state.name == "Pending":
        given = await client.set_flow_run_state(run.id, Running())
        assert given.state
    return str(given.state.name)


@pytest.mark.slow
def test_the_night_after_a_crash_starts_with_each_collision_strategy(tmp_path: Path) -> None:
    port = free_port()

    async def begin_all(api: str, deployments: list[UUID]) -> list[str]:
        async with PrefectClient(api) as client:
            return [await begin(client, deployment) for deployment in deployments]

    async def deploy_all(api: str) -> list[UUID]:
        async with PrefectClient(api) as client:
            return [await deploy(client, strategy) for strategy in STRATEGIES]

    with server(tmp_path, port) as api:
        deployments = asyncio.run(deploy_all(api))
        assert asyncio.run(begin_all(api, deployments)) == ["Running"] * len(STRATEGIES)
        refused = asyncio.run(begin_all(api, deployments))
        assert "Running" not in refused
    with server(tmp_path, port) as api:
        begun = time.monotonic()
        left = list(deployments)

        def all_begin() -> bool:
            states = asyncio.run(begin_all(api, left))
            for deployment, state in list(zip(left, states, strict=True)):
                if state == "Running":
                    left.remove(deployment)
            return not left

        until(all_begin, 4 * LEASE, pause=0.5)
        print(f"the slots were free {time.monotonic() - begun:.0f} s after the restart")


def test_runs_that_died_are_found_by_their_heartbeat() -> None:
    """Prefect reads the automation that an operator gives it; it marks a silent run as crashed."""
    file = yaml.safe_load((ROOT / "deploy" / "automations.yaml").read_text())
    (automation,) = [AutomationCore.model_validate(each) for each in file["automations"]]
    (action,) = automation.actions
    assert action.model_dump()["state"] == "CRASHED"
    trigger = automation.trigger.model_dump(mode="json")
    assert trigger["posture"] == "Proactive"
    assert trigger["after"] == ["prefect.flow-run.heartbeat"]
    assert "prefect.flow-run.Completed" in trigger["expect"]
    # Three heartbeats, which come every three minutes.
    assert trigger["within"] == 3 * 180.0
