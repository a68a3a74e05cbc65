import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import dask
import pytest
import s3fs

from flows.commands import doctor as module
from flows.commands.doctor import DoctorOutcome, doctor
from flows.commands.main import main
from flows.options.tools import Doctor
from flows.settings import Settings
from storage.store import Store
from tests.support.certificates import make_certificates


def found(settings: Settings) -> dict[str, tuple[bool, str]]:
    return {check.name: (check.well, check.found) for check in doctor(Doctor(), settings).checks}


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cluster", lambda settings: (True, "not looked at"))


@pytest.mark.usefixtures("no_cluster")
def test_a_healthy_machine_is_well_and_its_store_is_left_as_it_was(tmp_path: Path) -> None:
    settings = Settings(store=str(tmp_path / "store"))
    found = doctor(Doctor(), settings)
    assert not found.failed
    assert "slidewatch-" in next(each.found for each in found.checks if each.name == "model")
    assert not list((tmp_path / "store").glob("[!.]*"))


@pytest.mark.usefixtures("no_cluster")
def test_a_store_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    well, says = found(Settings(store=str(tmp_path / "file")))["store"]
    assert not well
    assert "Error" in says


@pytest.mark.usefixtures("no_cluster")
def test_what_a_disk_can_do_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(store=str(tmp_path / "store"))
    says = found(settings)
    assert re.match(r"file and folder, on \w+: [\d.]+ ms|warning: tmpfs", says["synced"][1])
    assert says["created once"] == (True, "by hard links: only one run at a time works on a batch")
    assert says["replaced"] == (True, "by a rename, in one step")

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    well, text = found(settings)["created once"]
    assert not well
    assert "no hard links" in text
    assert "put the store on ext4, XFS, NFS or" in text
    monkeypatch.setattr(module, "_filesystem", lambda path: "tmpfs")
    assert found(settings)["synced"][1].startswith("warning: tmpfs is memory")


@pytest.mark.usefixtures("no_cluster")
def test_what_an_object_store_can_do_is_told(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(store=f"{s3_bucket}/{tmp_path.name}")
    assert not doctor(Doctor(), settings).failed
    says = found(settings)
    assert "PUT with If-None-Match: only one run" in says["created once"][1]
    assert "PUT with If-Match: a late write is refused" in says["replaced"][1]
    call = s3fs.S3FileSystem._call_s3

    async def unconditional(self: Any, *asked: Any, **options: Any) -> Any:
        """A server that takes no notice of conditions."""
        options = {name: value for name, value in options.items() if not name.startswith("If")}
        return await call(self, *asked, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", unconditional)
    says = found(settings)
    assert says["created once"][0] is False
    assert "two runs may work on one batch" in says["created once"][1]
    assert says["replaced"][0]
    assert says["replaced"][1].startswith("warning: PUT with If-Match is not honoured")
    assert Store(settings.store).names() == []
    memory = found(Settings(store=f"memory://{tmp_path.name}"))
    assert memory["replaced"][1].startswith("warning: no conditional PUT is known")


@pytest.mark.usefixtures("no_cluster")
def test_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_DISK", 10**18)
    assert not found(Settings(store=str(tmp_path)))["disk"][0]


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize(("days", "well"), [(module.LEAST_DAYS + 1, True), (3, False)])
def test_certificates_that_end_soon_are_found(tmp_path: Path, days: int, well: bool) -> None:
    tls = make_certificates(tmp_path, days)
    files = {"ca-file": "ca.pem", "client.cert": "client.pem", "client.key": "client-key.pem"}
    settings = Settings(store=str(tmp_path / "store"))
    with dask.config.set({f"distributed.comm.tls.{k}": str(tls / v) for k, v in files.items()}):
        is_well, says = found(settings)["certificates"]
        assert is_well == well
        assert re.match(rf"({days - 1}|{days}) days left, until 20", says)
        (tls / "client-key.pem").unlink()
        assert not found(settings)["certificates"][0]


def test_the_cluster_answers(tmp_path: Path) -> None:
    well, says = found(Settings(store=str(tmp_path), workers=1))["cluster"]
    assert (well, says) == (True, "local: 1 worker answers")


@pytest.mark.usefixtures("no_cluster")
def test_every_setting_has_a_value_and_an_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "slidewatch.toml"
    file.write_text(
        'scheduler = "tls://night:8786"\nalpha = 0.1\n[field_limits]\nleast_cells = 2\n'
    )
    monkeypatch.setenv("SLIDEWATCH_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SLIDEWATCH_METRICS", "/srv/night.prom")
    monkeypatch.setenv("SLIDEWATCH_ALPHA", "0.2")
    monkeypatch.setenv("SLIDEWATCH_FIELD_LIMITS__MOST_DARK", "0.3")
    with pytest.raises(SystemExit):
        main(["doctor", "--json", "--workers", "3"])
    outcome = DoctorOutcome.model_validate(json.loads(capsys.readouterr().out))
    found = {each.name: (each.value, each.origin) for each in outcome.settings}
    assert found["store"] == (str(tmp_path / "store"), "environment, SLIDEWATCH_STORE")
    assert found["metrics"] == ("/srv/night.prom", "environment, SLIDEWATCH_METRICS")
    assert found["alpha"] == (0.2, "environment, SLIDEWATCH_ALPHA")
    assert found["scheduler"] == ("tls://night:8786", str(file))
    assert found["field_limits.least_cells"] == (2, str(file))
    dark = (0.3, "environment, SLIDEWATCH_FIELD_LIMITS__MOST_DARK")
    assert found["field_limits.most_dark"] == dark
    assert found["workers"] == (3, "command line")
    assert found["shard_rows"] == (512, "default")
    lines = outcome.text().partition("settings:\n")[2].splitlines()
    assert len(lines) == len(found)
    assert ["alpha", "0.2", "(environment,", "SLIDEWATCH_ALPHA)"] in [x.split() for x in lines]
