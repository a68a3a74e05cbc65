"""deploy/README.md, and the services and the environment that an operator copies."""

import configparser
import re
import shlex
import tomllib
from urllib.parse import urlsplit

import pytest
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names

from flows.commands.parser import command_parser
from flows.options.commands import COMMANDS
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "README.md").read_text()
BLOCKS = re.findall(r"^( *)```sh\n(.*?)^ *```", TEXT, re.M | re.S)
COMMAND_LINES = [
    line.strip()
    for _, block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
SLIDEWATCH = sorted(
    {
        found[0].strip()
        for line in [*COMMAND_LINES, *re.findall(r"`([^`\n]+)`", TEXT)]
        for found in [re.search(r"(?<![\w/.:-])slidewatch [a-z][^&|;#>]*", line)]
        if found and found[0].split()[1] in {name.split()[0] for name in COMMANDS}
    }
)


def anchor(title: str) -> str:
    """What GitHub calls a heading in a link."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_links_lead_somewhere() -> None:
    anchors = {anchor(title) for title in re.findall(r"^#+ (.+)$", TEXT, re.M)}
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not urlsplit(link).scheme:
            assert (DEPLOY / link).exists(), link


@pytest.mark.parametrize("line", SLIDEWATCH)
def test_a_slidewatch_command_is_understood(line: str) -> None:
    words = shlex.split(re.sub(r" \.\.\.| <[^>]+>", "", line))[1:]
    name = next(n for k in (2, 1) if (n := " ".join(words[:k])) in COMMANDS)
    given = words[len(name.split()) :]
    known = {each for action in command_parser(name)._actions for each in action.option_strings}
    assert {word for word in given if word.startswith("--")} <= known


def test_the_guide_has_every_part_of_an_operators_work() -> None:
    titles = re.findall(r"^## (.+)$", TEXT, re.M)
    assert titles == [
        "First install, on one server",
        "With containers",
        "On Kubernetes",
        "Upgrade",
        "Backup",
        "Restore",
        "Rotate certificates",
        "What to watch",
        "When a night is red",
        "Clusters",
        "What was not run",
    ]


def test_files_that_are_copied_are_there() -> None:
    copied = re.findall(r"CHECKOUT/(deploy/[\w./*-]+)", TEXT)
    assert copied
    for name in copied:
        assert list(ROOT.glob(name)), name


# --- services of one server


def test_the_pages_are_served_where_prefect_links_them() -> None:
    unit = configparser.ConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "slidewatch-pages.service")
    words = shlex.split(unit["Service"]["ExecStart"])
    settings = tomllib.loads((DEPLOY / "slidewatch.toml").read_text())
    url = urlsplit(settings["pages_url"])
    assert words[1:4] == ["-m", "http.server", str(url.port)]
    assert words[words.index("--bind") + 1] == url.hostname == "127.0.0.1"
    assert words[words.index("--directory") + 1] == f"{settings['store']}/reports/html"


def environment() -> dict[str, str]:
    lines = (DEPLOY / "environment").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_the_environment_has_settings_of_prefect() -> None:
    names = set(environment()) - {"SLIDEWATCH_HOME", "DO_NOT_TRACK", "PREFECT_HOME"}
    assert names <= _get_valid_setting_names(PrefectSettings)


@pytest.mark.parametrize("name", ["prefect-server", "prefect-worker"])
def test_a_service_starts_what_the_guide_installs(name: str) -> None:
    unit = configparser.ConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / f"{name}.service")
    service, home = unit["Service"], environment()["SLIDEWATCH_HOME"]
    program, *words = shlex.split(service["ExecStart"])
    assert program == f"{home}/venv/bin/prefect"
    assert words[:2] == [name.removeprefix("prefect-"), "start"]
    assert service["WorkingDirectory"] == home
    assert service["EnvironmentFile"] == f"{home}/environment"
    assert service["User"] == "slidewatch"
    assert service["Restart"] == "always"
    if name == "prefect-server":
        api = urlsplit(environment()["PREFECT_API_URL"])
        assert words[2:] == ["--host", str(api.hostname), "--port", str(api.port)]
    else:
        assert words[2:] == ["--pool", "slidewatch"]
        assert unit["Unit"]["After"] == "prefect-server.service"
