import re
from pathlib import Path

import pytest

from flows.commands import doctor as module
from flows.commands.certificates import certificates
from flows.commands.doctor import doctor
from flows.settings import Settings


def found(settings: Settings) -> dict[str, tuple[bool, str]]:
    return {check.name: (check.well, check.found) for check in doctor(settings).checks}


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cluster", lambda settings: (True, "not looked at"))


@pytest.mark.usefixtures("no_cluster")
def test_a_healthy_machine_is_well_and_its_store_is_left_as_it_was(tmp_path: Path) -> None:
    settings = Settings(store=str(tmp_path / "store"))
    assert not doctor(settings).failed
    assert not list((tmp_path / "store").glob("[!.]*"))


@pytest.mark.usefixtures("no_cluster")
def test_a_store_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    well, says = found(Settings(store=str(tmp_path / "file")))["store"]
    assert not well
    assert "Error" in says


@pytest.mark.usefixtures("no_cluster")
def test_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_DISK", 10**18)
    assert not found(Settings(store=str(tmp_path)))["disk"][0]


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize(("days", "well"), [(module.LEAST_DAYS + 1, True), (3, False)])
def test_certificates_that_end_soon_are_found(tmp_path: Path, days: int, well: bool) -> None:
    tls = Path(certificates(str(tmp_path / "tls"), names=["localhost"], days=days).folder)
    settings = Settings(
        store=str(tmp_path / "store"),
        tls_ca=str(tls / "ca.pem"),
        tls_certificate=str(tls / "client.pem"),
        tls_key=str(tls / "client-key.pem"),
    )
    is_well, says = found(settings)["certificates"]
    assert is_well == well
    assert re.match(rf"({days - 1}|{days}) days left, until 20", says)
    (tls / "client-key.pem").unlink()
    assert not found(settings)["certificates"][0]


@pytest.mark.usefixtures("no_cluster")
def test_who_names_no_certificates_needs_none(tmp_path: Path) -> None:
    assert found(Settings(store=str(tmp_path)))["certificates"][0]


def test_the_cluster_answers(tmp_path: Path) -> None:
    well, says = found(Settings(store=str(tmp_path), workers=1))["cluster"]
    assert (well, says) == (True, "local: 1 workers answer")
