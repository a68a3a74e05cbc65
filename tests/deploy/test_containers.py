"""deploy/Dockerfile and deploy/compose.yaml, as far as they can be read without containers.

``test_composed_night`` builds and runs them.
"""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.core import ParameterSource
from distributed.cli import dask_scheduler, dask_worker
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names

from flows.cluster.kinds import STARTED
from flows.settings import Settings
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: s for name, s in SERVICES.items() if s["image"].startswith("slidewatch:")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Read by prefect.yaml and by Settings themselves, and no setting.
NO_SETTINGS = {"SLIDEWATCH_HOME", "SLIDEWATCH_CONFIG"}

by_service = pytest.mark.parametrize("name", SERVICES)


# --- the image


def test_the_dockerfile_pleases_its_linter() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run(
        [hadolint, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, by its name; the last has none."""
    found: dict[str, list[str]] = {}
    for line in DOCKERFILE.partition("\nFROM ")[2].replace("\\\n", " ").splitlines():
        first = f"FROM {line}" if not found else line
        if first.startswith("FROM "):
            found[first.partition(" AS ")[2]] = own = [first]
        elif line and not line.startswith("#"):
            own.append(line)
    return found


def test_a_scheduler_in_the_image_keeps_as_few_messages_as_one_that_is_started() -> None:
    name = "distributed.admin.low-level-log-length"
    variable = f"DASK_{name.upper().replace('.', '__').replace('-', '_')}"
    assert f"{variable}={STARTED[name]} " in DOCKERFILE


def test_base_images_are_pinned_and_one() -> None:
    froms = [own[0].split()[1] for own in stages().values()]
    outside = {image for image in froms if image not in {*stages(), "packages-${TORCH}"}}
    (image,) = outside  # so that what was built in one stage runs in the other
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image)


def test_what_runs_is_no_root_has_a_health_check_and_no_build_tools() -> None:
    instructions = stages()[""]
    (user,) = [line.split()[1] for line in instructions if line.startswith("USER ")]
    assert int(user.split(":")[0]) >= 1000
    assert any(line.startswith("HEALTHCHECK ") for line in instructions)
    assert not any(
        re.search(r"\b(apt-get|gcc)\b", line) for own in stages().values() for line in own
    )


def test_the_image_is_made_of_files_that_are_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        name
        for own in stages().values()
        for line in own
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
        if not name.startswith("--")
    ]
    assert {"flows", "tasks", "storage", "pyproject.toml"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name


@pytest.mark.parametrize("stage", ["packages", "packages-cpu", "packages-cuda"])
def test_packages_are_installed_without_any_source(stage: str) -> None:
    """So a change of source installs none anew; test_composed_night builds the image twice."""
    copied = [line for line in stages()[stage] if line.startswith("COPY ")]
    assert all(name.startswith("deploy/locks/") for line in copied for name in line.split()[1:-1])
    assert stages()[""][-1] == "COPY --from=slidewatch /installed /"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_the_health_check_asks_the_server_of_its_container() -> None:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    well = f"http://127.0.0.1:{server.server_port}/well"
    nobody = "http://127.0.0.1:1/"
    for url, code in ((well, 0), (well.replace("well", "ill"), 1), (nobody, 1), (None, 0)):
        given = {"http_proxy": nobody} | ({"HEALTH_URL": url} if url else {})
        command = [sys.executable, DEPLOY / "healthy.py"]
        done = subprocess.run(command, env=os.environ | given, capture_output=True, check=False)
        assert done.returncode == code, url
    server.shutdown()
    assert os.access(DEPLOY / "healthy.py", os.X_OK)


# --- compose


@pytest.mark.parametrize("name", OURS)
def test_our_image_has_the_version_of_the_project_and_a_stage_that_there_is(name: str) -> None:
    service = OURS[name]
    torch = service["build"].get("args", {"TORCH": "cpu"})["TORCH"]
    suffix = "" if torch == "cpu" else f"-{torch}"
    assert service["image"] == f"slidewatch:{PROJECT['version']}{suffix}"
    assert f"packages-{torch}" in stages()
    assert "\nARG TORCH=cpu\n" in DOCKERFILE.partition("\nFROM ")[0]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


@by_service
def test_a_service_may_do_no_more_than_it_must_and_its_image_is_pinned(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", service["image"])
    assert not service["image"].endswith(":latest")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user", "10001") not in {"root", "0", "0:0"}
    assert "user" in service or name in OURS  # whose image names one
    assert re.fullmatch(r"\d+g", service["mem_limit"])
    assert "privileged" not in service
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))
    assert name not in OURS or service["read_only"]


@by_service
def test_a_service_starts_again_is_asked_how_it_is_and_waits_for_others(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    if name in OURS:
        url = urlsplit(service["environment"]["HEALTH_URL"])
        assert url.hostname == "127.0.0.1"
        assert "healthcheck" not in service  # the image has one
    else:
        assert service["healthcheck"]["test"][0] == "CMD"
    for other, how in service.get("depends_on", {}).items():
        assert other in SERVICES
        assert how == {"condition": "service_healthy"}


def test_no_secret_has_a_default_and_all_that_is_needed_is_said() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    head = text.partition("\nname:")[0]
    used = set(re.findall(r"\$\{(\w+)([:?-][^}]*)?\}", text))
    optional = {name for name, rest in used if rest.startswith(":-")}
    assert optional == {"DASK_WORKERS"}
    assert {rest for name, rest in used if name not in optional} == {":?is not in .env"}
    for name, _ in used:
        assert name in head
        assert name in (DEPLOY / "containers.md").read_text()


@pytest.mark.parametrize(
    "environment", [service["environment"] for service in OURS.values() if "environment" in service]
)
def test_settings_are_settings(environment: dict[str, Any]) -> None:
    own = {key for key in environment if key.startswith("SLIDEWATCH_")} - NO_SETTINGS
    assert {key.removeprefix("SLIDEWATCH_").lower() for key in own} <= set(Settings.model_fields)
    known = _get_valid_setting_names(PrefectSettings)
    assert {key for key in environment if key.startswith("PREFECT_")} <= known


def test_the_worker_finds_what_the_others_offer() -> None:
    worker = SERVICES["prefect-worker"]
    given = {
        key.removeprefix("SLIDEWATCH_").lower(): value
        for key, value in worker["environment"].items()
        if key.startswith("SLIDEWATCH_")
    }
    settings = Settings(**given)
    scheduler = urlsplit(settings.scheduler)
    assert (settings.cluster, scheduler.scheme) == ("scheduler", "tls")
    assert scheduler.hostname in SERVICES
    assert f"--port {scheduler.port}" in SERVICES[str(scheduler.hostname)]["command"]
    api = urlsplit(worker["environment"]["PREFECT_API_URL"])
    assert f"--port {api.port}" in SERVICES[str(api.hostname)]["command"]
    bucket = urlsplit(settings.store).hostname
    assert f"-bucket={bucket}" in SERVICES["s3"]["command"]
    for name in ("prefect-worker", "dask-worker", "dask-worker-gpu"):
        assert urlsplit(SERVICES[name]["environment"]["AWS_ENDPOINT_URL"]).hostname == "s3"
        # They must see images at the same address.
        assert "${IMAGES:?is not in .env}:/images:ro" in SERVICES[name]["volumes"]


def files_of(name: str) -> set[str]:
    """The paths of secrets in a container; each is one that the file defines."""
    found = SERVICES[name].get("secrets", [])
    assert {each["source"] for each in found} <= set(COMPOSE["secrets"])
    return {each["target"] for each in found}


ROLES = {"dask-scheduler": "scheduler", "dask-worker": "worker", "dask-worker-gpu": "worker"}


@pytest.mark.parametrize(("name", "role"), [*ROLES.items(), ("prefect-worker", "client")])
def test_each_has_the_authority_and_the_pair_of_its_role_alone(name: str, role: str) -> None:
    assert files_of(name) == {f"/run/tls/{each}.pem" for each in ("ca", role, f"{role}-key")}
    for secret, where in COMPOSE["secrets"].items():
        assert where["file"] == f"tls/{secret}.pem"
    assert "ca-key" not in str(COMPOSE["secrets"])


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_dask_takes_its_commands_and_has_tls(name: str, role: str, tmp_path: Path) -> None:
    for secret in files_of(name):  # Dask looks whether they are there
        (tmp_path / Path(secret).name).touch()
    words = shlex.split(SERVICES[name]["command"].replace("/run/tls", str(tmp_path)))
    assert words[:2] == ["dask", role]
    main = {"scheduler": dask_scheduler, "worker": dask_worker}[role].main
    context = main.make_context(f"dask {role}", words[2:], resilient_parsing=False)
    given = {
        option: value
        for option, value in context.params.items()
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE
    }
    assert given["protocol"] == "tls"
    pair = tmp_path / f"{role}.pem", tmp_path / f"{role}-key.pem"
    assert (given["tls_cert"], given["tls_key"]) == tuple(map(str, pair))
    assert given["tls_ca_file"] == str(tmp_path / "ca.pem")
    health = urlsplit(SERVICES[name]["environment"]["HEALTH_URL"])
    assert given["dashboard_address"] == health.netloc
    if role == "scheduler":
        assert SERVICES[name]["environment"]["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] == "0"
    else:
        assert given["nthreads"] == 1


def test_services_meet_in_a_network() -> None:
    networks = {name: set(service.get("networks", [])) for name, service in SERVICES.items()}
    meet = {
        "prefect-server": ["postgres"],
        "prefect-worker": ["prefect-server", "dask-scheduler", "s3"],
        "dask-worker": ["dask-scheduler", "s3"],
    }
    apart = {"postgres": ["dask-worker"], "prefect-server": ["s3", "dask-worker"]}
    for pairs, together in ((meet, True), (apart, False)):
        for one, others in pairs.items():
            for other in others:
                assert bool(networks[one] & networks[other]) == together, (one, other)
    assert {n for s in SERVICES.values() for n in s.get("networks", [])} == set(COMPOSE["networks"])
