"""The pages of deploy/, and the services and the environment that an operator copies."""

import configparser
import re
import shlex
import tomllib
from urllib.parse import urlsplit

import pytest
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names

from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
PAGES = {path.stem: path.read_text() for path in DEPLOY.glob("*.md")}


def test_files_that_are_copied_are_there() -> None:
    copied = re.findall(r"CHECKOUT/(deploy/[\w./*-]+)", "".join(PAGES.values()))
    assert copied
    for name in copied:
        assert list(ROOT.glob(name)), name


# --- services of one server


def unit_of(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / f"{name}.service")
    return unit


def test_the_pages_are_served_where_prefect_links_them() -> None:
    unit = unit_of("slidewatch-pages")
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
    unit = unit_of(name)
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
