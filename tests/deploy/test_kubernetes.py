"""deploy/kubernetes and the work pools, as Kubernetes, Dask's operator and Prefect know them.

Nothing here needs a cluster. Schemas come with packages: those of Kubernetes with
kubernetes-validate, those of Dask's operator with dask-kubernetes, which starts it.
"""

import asyncio
import base64
import binascii
import json
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import dask
import kubernetes_validate
import pytest
import yaml
from click.core import ParameterSource
from distributed.cli import dask_scheduler, dask_worker
from jsonschema import Draft202012Validator
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names
from prefect.workers.base import BaseJobConfiguration
from prefect_docker.worker import DockerWorkerJobConfiguration
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from flows.settings import Settings
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "kubernetes"
NAMESPACE = "slidewatch"
VERSIONS = ["1.32", "1.37"]  # of Kubernetes, the oldest and the newest that are tried
COMPONENT = "app.kubernetes.io/component"

Thing = dict[str, Any]


def read(name: str) -> list[Thing]:
    text = (FOLDER / name).read_text()
    return [cast(Thing, each) for each in yaml.load_all(text, Loader=yaml.CSafeLoader)]


NAMES = [str(path.relative_to(FOLDER)) for path in sorted(FOLDER.rglob("*.yaml"))]
NAMES.remove("kustomization.yaml")
THINGS = [(name, thing) for name in NAMES for thing in read(name)]
KUSTOMIZATION = read("kustomization.yaml")[0]
BUILT_IN = [(name, thing) for name, thing in THINGS if "dask.org" not in thing["apiVersion"]]
OF_DASK = [(name, thing) for name, thing in THINGS if "dask.org" in thing["apiVersion"]]


def label(value: object) -> str:
    return f"{value['kind']}-{value['metadata']['name']}" if isinstance(value, dict) else str(value)


def pool(kind: str) -> Thing:
    return cast(Thing, json.loads((DEPLOY / "work-pools" / f"{kind}.json").read_text()))


def filled(configuration: type[BaseJobConfiguration], kind: str, **given: str) -> Any:
    """What Prefect's worker makes of a work pool. It need not ask a server, so there is none."""
    nobody = PrefectClient("http://127.0.0.1:1/api")
    return asyncio.run(configuration.from_template_and_values(pool(kind), given, client=nobody))


def job() -> Thing:
    """The Job that Prefect's worker makes of the work pool for a run."""
    configuration = filled(KubernetesWorkerJobConfiguration, "kubernetes")
    configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="night"))
    return cast(Thing, configuration.job_manifest)


def pods() -> list[tuple[str, Thing, dict[str, str]]]:
    """Every pod's name, specification, and labels, by whomever it is made."""
    found = []
    for _, thing in THINGS:
        name, spec = label(thing), thing.get("spec", {})
        if thing["kind"] in {"Deployment", "StatefulSet"}:
            template = spec["template"]
            found.append((name, template["spec"], template["metadata"]["labels"]))
        for role in ("scheduler", "worker"):
            if role in spec:
                cluster = spec.get("cluster", thing["metadata"]["name"])
                labels = {"dask.org/cluster-name": cluster, "dask.org/component": role}
                found.append((f"{name}-{role}", spec[role]["spec"], labels))
    template = job()["spec"]["template"]
    return [*found, ("Job", template["spec"], template["metadata"]["labels"])]


PODS = pods()
by_pod = pytest.mark.parametrize(
    ("spec", "labels"), [p[1:] for p in PODS], ids=[p[0] for p in PODS]
)


# --- schemas


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("file", "thing"), BUILT_IN, ids=label)
def test_kubernetes_knows_every_field(file: str, thing: Thing, version: str) -> None:
    kubernetes_validate.validate(thing, version, strict=True)


def test_kubernetes_knows_every_field_of_a_runs_job() -> None:
    made = job()
    # Prefect asks that they stand here, where Kubernetes overlooks them.
    for field in ("parallelism", "completions"):
        assert made["spec"]["template"]["spec"].pop(field) == 1
    kubernetes_validate.validate(made, VERSIONS[-1], strict=True)


def schema(kind: str) -> Thing:
    """What Dask's operator takes of a kind, closed: a field that it does not know is an error."""
    place = files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator/crds"
    text = (place / f"{kind.lower()}.yaml").read_text()
    definition = yaml.load(text, Loader=yaml.CSafeLoader)
    assert definition["spec"]["names"]["kind"] == kind
    (version,) = definition["spec"]["versions"]
    found = version["schema"]["openAPIV3Schema"]
    found["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    return cast(Thing, _closed(found))


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    if closed.pop("x-kubernetes-int-or-string", False):
        return {}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


SCHEMAS = {kind: schema(kind) for kind in {thing["kind"] for _, thing in OF_DASK}}


@pytest.mark.parametrize(("file", "thing"), OF_DASK, ids=label)
def test_dasks_operator_knows_every_field(file: str, thing: Thing) -> None:
    assert thing["apiVersion"] == "kubernetes.dask.org/v1"
    Draft202012Validator(SCHEMAS[thing["kind"]]).validate(thing)


# --- what is named is there


def test_all_that_is_to_be_applied_is_listed_and_in_the_namespace() -> None:
    listed = set(KUSTOMIZATION["resources"])
    apart = {name for name in NAMES if name.startswith("operator/")}
    assert listed == set(NAMES) - apart - {"secrets.example.yaml", "dask-tls-gpu.yaml"}
    assert "# - dask-tls-gpu.yaml" in (FOLDER / "kustomization.yaml").read_text()
    assert KUSTOMIZATION["namespace"] == NAMESPACE
    for name, thing in THINGS:
        if name in apart | {"secrets.example.yaml"}:  # kustomize sets it for the others
            assert thing["metadata"]["namespace"] == NAMESPACE


def named(kind: str) -> set[str]:
    return {thing["metadata"]["name"] for _, thing in THINGS if thing["kind"] == kind}


def thing_of(kind: str, name: str | None) -> Thing:
    (found,) = [
        thing for _, thing in THINGS if (thing["kind"], thing["metadata"]["name"]) == (kind, name)
    ]
    return found


def keys_of(kind: str, name: str) -> set[str]:
    return set(thing_of(kind, name)["data"])


@by_pod
def test_what_a_pod_reads_is_there(spec: Thing, labels: dict[str, str]) -> None:
    assert spec.get("serviceAccountName", "default") in named("ServiceAccount") | {"default"}
    mounted = {volume["name"] for volume in spec.get("volumes", [])} | {"data"}
    for volume in spec.get("volumes", []):
        if "secret" in volume:
            assert volume["secret"]["secretName"] in named("Secret")
        if "configMap" in volume:  # made of a file by a command of the guide
            name = volume["configMap"]["name"]
            assert f"create configmap {name}" in (DEPLOY / "kubernetes.md").read_text()
            assert volume["configMap"]["optional"]
    for container in spec["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
        for source in container.get("envFrom", []):
            if "secretRef" in source:
                assert source["secretRef"]["name"] in named("Secret")
            else:
                assert source["configMapRef"]["name"] in named("ConfigMap")
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["key"] in keys_of("Secret", reference["name"])


@by_pod
def test_tls_files_are_keys_of_the_secret(spec: Thing, labels: dict[str, str]) -> None:
    mounts = [each for container in spec["containers"] for each in container["volumeMounts"]]
    for volume in spec.get("volumes", []):
        if volume["name"] == "tls":
            (place,) = [mount["mountPath"] for mount in mounts if mount["name"] == "tls"]
            assert place == "/etc/slidewatch/tls"
            keys = keys_of("Secret", volume["secret"]["secretName"])
            assert keys == {"ca.pem", "certificate.pem", "key.pem"}
            assert volume["secret"]["defaultMode"] == 0o440


def test_the_example_of_secrets_is_refused_and_each_is_made_by_a_command_of_the_guide() -> None:
    text = (DEPLOY / "kubernetes.md").read_text()
    for thing in read("secrets.example.yaml"):
        for value in thing["data"].values():
            with pytest.raises(binascii.Error):
                base64.b64decode(value, validate=True)
        name = thing["metadata"]["name"]
        family = name.replace(name.split("-")[1], "$role") if name.endswith("-tls") else name
        assert f"create secret generic {family}" in text
        for key in thing["data"]:
            assert key in text


# --- pods


@by_pod
def test_a_pod_may_do_no_more_than_it_must_and_its_images_are_pinned(
    spec: Thing, labels: dict[str, str]
) -> None:
    (own,) = KUSTOMIZATION["images"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec["enableServiceLinks"]
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} == set(container["resources"]["requests"])
        name, _, tag = container["image"].rpartition(":")
        assert tag[:1].isdigit()
        if name == own["name"]:
            gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert tag == own["newTag"] + ("-cuda" if gpu else "")
    # Nodes with GPUs let nobody else in.
    gpu = any("nvidia.com/gpu" in c["resources"]["limits"] for c in spec["containers"])
    tolerated = [each["key"] for each in spec.get("tolerations", [])]
    assert tolerated == (["nvidia.com/gpu"] if gpu else [])


@by_pod
def test_settings_are_settings(spec: Thing, labels: dict[str, str]) -> None:
    known = _get_valid_setting_names(PrefectSettings) | {
        f"PREFECT_INTEGRATIONS_KUBERNETES_{name}" for name in _names_in(KubernetesSettings)
    }
    known |= {f"SLIDEWATCH_{name.upper()}" for name in Settings.model_fields}
    for container in spec["containers"]:
        given = {variable["name"] for variable in container.get("env", [])}
        if labels.get(COMPONENT) != "run":  # what Prefect's worker adds is its own affair
            assert {name for name in given if name.startswith(("SLIDEWATCH", "PREFECT"))} <= known


def _names_in(model: Any) -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        below = _names_in(field.annotation) if inner else {""}
        found |= {"_".join(filter(None, (name.upper(), each))) for each in below}
    return found


def test_the_settings_of_all_are_such_that_a_run_finds_its_cluster() -> None:
    (data,) = [thing["data"] for thing in read("settings.yaml")]
    own = {
        name.removeprefix("SLIDEWATCH_").lower(): value
        for name, value in data.items()
        if name.startswith("SLIDEWATCH_")
    }
    settings = Settings(**own)
    scheduler = urlsplit(settings.scheduler)
    assert (settings.cluster, scheduler.scheme) == ("scheduler", "tls")
    service = thing_of("Service", scheduler.hostname)
    assert service["spec"]["ports"][0]["port"] == scheduler.port
    tls = dask.config.collect_env(data)["distributed"]["comm"]["tls"]
    named = [Path(path) for path in (tls["ca_file"], *tls["client"].values())]
    assert {path.name for path in named} == keys_of("Secret", "dask-client-tls")
    assert {str(path.parent) for path in named} == {"/etc/slidewatch/tls"}
    assert {name for name in data if not name.startswith(("SLIDEWATCH_", "DASK_"))} == {
        "AWS_ENDPOINT_URL",
        "AWS_DEFAULT_REGION",
    }


@by_pod
def test_dask_takes_its_commands(spec: Thing, labels: dict[str, str], tmp_path: Path) -> None:
    (container,) = spec["containers"]
    words = container.get("args", [])
    if words[:1] != ["dask"]:
        assert labels.get(COMPONENT, "").partition("-")[0] in {"postgres", "prefect", "run"}
        return
    for name in ("ca.pem", "certificate.pem", "key.pem"):  # Dask looks whether they are there
        (tmp_path / name).touch()
    words = [word.replace("/etc/slidewatch/tls", str(tmp_path)) for word in words]
    main = {"scheduler": dask_scheduler, "worker": dask_worker}[words[1]].main
    context = main.make_context(f"dask {words[1]}", words[2:])
    given = {
        option: value
        for option, value in context.params.items()
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE
    }
    environment = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
    if COMPONENT in labels:  # else Dask's operator says where, and knows no TLS
        assert given["protocol"] == "tls"
        assert given["tls_key"] == str(tmp_path / "key.pem")
        health = urlsplit(environment["HEALTH_URL"])
        assert given["dashboard_address"] == health.netloc
        assert container["livenessProbe"]["exec"]["command"] == ["healthy"]
    if words[1] == "scheduler":
        assert environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] == "0"
    else:
        assert given["nthreads"] == 1


@pytest.mark.parametrize("name", ["operator/run.yaml", "operator/standing.yaml"])
def test_the_operator_can_ask_a_scheduler_by_http(name: str) -> None:
    """Dask does not answer these by default, and then the operator guesses whom to retire."""
    spec = read(name)[0]["spec"]["scheduler"]
    (container,) = spec["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    routes = json.loads(environment["DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"])
    assert "distributed.http.scheduler.api" in routes
    assert "distributed.http.health" in routes  # of the probes
    assert {port["name"] for port in container["ports"]} == {"tcp-comm", "http-dashboard"}
    for port in spec["service"]["ports"]:
        assert port["targetPort"] == port["name"]


def test_a_runs_cluster_ends_though_nobody_ends_it_and_is_one_document() -> None:
    (cluster,) = read("operator/run.yaml")  # of which Dask reads one
    assert cluster["kind"] == "DaskCluster"
    assert cluster["spec"]["idleTimeout"] > 0
    standing, *others = read("operator/standing.yaml")
    assert "idleTimeout" not in standing["spec"]
    for other in others:
        assert other["spec"]["cluster"] == standing["metadata"]["name"]
    for each in (cluster, standing):
        assert each["spec"]["scheduler"]["service"]["selector"] == {
            "dask.org/cluster-name": each["metadata"]["name"],
            "dask.org/component": "scheduler",
        }


# --- who calls whom


def selects(selector: Thing, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def may_call(caller: dict[str, str], called: dict[str, str], port: int) -> bool:
    """Whether policies let a pod call another of the namespace; none is found where none holds."""
    holding = [
        thing["spec"]
        for _, thing in THINGS
        if thing["kind"] == "NetworkPolicy" and selects(thing["spec"]["podSelector"], called)
    ]
    assert holding
    return any(
        any("podSelector" in each and selects(each["podSelector"], caller) for each in rule["from"])
        and any(each["port"] <= port <= each.get("endPort", each["port"]) for each in rule["ports"])
        for policy in holding
        for rule in policy.get("ingress", [])
    )


CALLS = {
    ("prefect-server", "postgres", 5432),
    ("prefect-worker", "prefect-server", 4200),
    ("run", "prefect-server", 4200),
    ("run", "dask-scheduler", 8786),
    ("dask-worker", "dask-scheduler", 8786),
    ("dask-scheduler", "dask-worker", 40000),
    ("dask-worker", "dask-worker", 40000),
    ("run", "dask/scheduler", 8786),
    ("dask/worker", "dask/scheduler", 8786),
    ("dask/scheduler", "dask/worker", 40000),
    ("dask/worker", "dask/worker", 40000),
}


def by_component() -> dict[str, dict[str, str]]:
    """Labels of one pod of each component; those that Dask's operator makes have a stroke."""
    return {
        labels.get(COMPONENT) or f"dask/{labels['dask.org/component']}": labels
        for _, _, labels in PODS
    }


@pytest.mark.parametrize("called", by_component())
@pytest.mark.parametrize("caller", [*by_component(), "stranger"])
def test_a_pod_is_called_by_those_that_must_and_by_no_other(caller: str, called: str) -> None:
    labels = by_component() | {"stranger": {"app": "stranger"}}
    for port in (4200, 5432, 8786, 8787, 40000):
        asked = (caller, called, port) in CALLS
        listens_anywhere = (caller, called, 40000) in CALLS
        assert may_call(labels[caller], labels[called], port) == (asked or listens_anywhere)


def test_every_pod_refuses_calls_that_no_policy_allows() -> None:
    (policy,) = [
        thing["spec"]
        for _, thing in THINGS
        if thing["kind"] == "NetworkPolicy" and thing["spec"]["podSelector"] == {}
    ]
    assert policy["policyTypes"] == ["Ingress"]
    assert "ingress" not in policy


def test_services_lead_to_a_port_of_their_pods_and_deployments_select_their_own_alone() -> None:
    for _, thing in THINGS:
        spec = thing.get("spec", {})
        if thing["kind"] == "Service":
            (pod,) = [pod for _, pod, labels in PODS if spec["selector"].items() <= labels.items()]
            ports = {each["name"]: each["containerPort"] for each in pod["containers"][0]["ports"]}
            for port in spec["ports"]:
                assert ports[port["targetPort"]] == port["port"]
            assert spec.get("type", "ClusterIP") == "ClusterIP"
        if thing["kind"] in {"Deployment", "StatefulSet"}:
            selected = spec["selector"]["matchLabels"].items()
            matching = [name for name, _, labels in PODS if selected <= labels.items()]
            assert matching == [label(thing)]


def test_roles_are_bound_to_accounts_that_there_are_and_only_in_the_namespace() -> None:
    kinds = {thing["kind"] for _, thing in THINGS}
    assert not {"ClusterRole", "ClusterRoleBinding"} & kinds
    for _, thing in THINGS:
        if thing["kind"] == "RoleBinding":
            assert thing["roleRef"]["name"] in named("Role")
            for subject in thing["subjects"]:
                assert subject["name"] in named("ServiceAccount")
        if thing["kind"] == "Role":
            assert "*" not in str(thing["rules"])


# --- work pools


@pytest.mark.parametrize(
    ("kind", "configuration"),
    [("docker", DockerWorkerJobConfiguration), ("kubernetes", KubernetesWorkerJobConfiguration)],
)
def test_prefects_worker_understands_the_work_pool(
    kind: str, configuration: type[BaseJobConfiguration]
) -> None:
    template = pool(kind)
    assert set(template) == {"variables", "job_configuration"}
    assert set(template["job_configuration"]) <= set(configuration.model_fields)
    used = set(json.dumps(template["job_configuration"]).split("{{ ")[1:])
    used = {each.split(" }}")[0] for each in used}
    assert used == set(template["variables"]["properties"])
    assert filled(configuration, kind, name="night").name == "night"


def test_a_run_in_docker_may_do_no_more_than_it_must() -> None:
    found = filled(DockerWorkerJobConfiguration, "docker")
    assert not found.privileged
    assert found.container_create_kwargs == {
        "init": True,
        "read_only": True,
        "tmpfs": {"/tmp": "size=1g,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert found.image == compose["services"]["prefect-worker"]["image"]


def test_a_runs_job_is_told_what_it_is() -> None:
    made = job()
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example/slidewatch:")
    assert shlex.join(container["args"]).startswith("prefect flow-run execute")
    assert made["metadata"]["namespace"] == NAMESPACE
    assert made["spec"]["template"]["metadata"]["labels"][COMPONENT] == "run"
