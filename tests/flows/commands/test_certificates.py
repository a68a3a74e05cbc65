import os
import shutil
import stat
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from flows.cluster.tls import CertificateError, expiry
from flows.commands import certificates as module
from flows.commands.certificates import ROLES, certificates

NAMES = ["night.example", "10.1.2.3"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tls"


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_role_has_a_pair_that_the_authority_signed(folder: Path) -> None:
    outcome = certificates(str(folder), names=NAMES, days=30)
    assert outcome.made_authority
    assert not list(folder.glob(".*"))
    authority = read(folder / "ca.pem")
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    for role in ROLES:
        certificate = read(folder / f"{role}.pem")
        certificate.verify_directly_issued_by(authority)
        key = serialization.load_pem_private_key(
            (folder / f"{role}-key.pem").read_bytes(), password=None
        )
        assert key.public_key() == certificate.public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["night.example"]
        assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
        days = (certificate.not_valid_after_utc - module.now()).total_seconds() / 86_400
        assert 29.9 < days <= 30


def test_a_client_does_not_pass_for_a_scheduler(folder: Path) -> None:
    certificates(str(folder), names=NAMES)
    uses = {
        role: set(
            read(folder / f"{role}.pem").extensions.get_extension_for_class(x509.ExtendedKeyUsage)
            .value
        )
        for role in ROLES
    }  # fmt: skip
    assert uses["client"] == {ExtendedKeyUsageOID.CLIENT_AUTH}
    assert uses["scheduler"] == uses["worker"] >= {ExtendedKeyUsageOID.SERVER_AUTH}


def test_private_keys_are_for_their_owner_alone_whatever_the_mask(folder: Path) -> None:
    before = os.umask(0)
    try:
        certificates(str(folder), names=NAMES)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {modes[name] for name in modes if name.endswith("-key.pem")} == {0o600}
    assert {modes[name] for name in modes if not name.endswith("-key.pem")} == {0o644}


def test_run_again_it_renews_the_pairs_and_leaves_the_authority(folder: Path) -> None:
    certificates(str(folder), names=NAMES, days=1)
    old = contents(folder)
    outcome = certificates(str(folder), names=NAMES, days=200)
    new = contents(folder)
    assert not outcome.made_authority
    assert {name for name in new if new[name] == old[name]} == {"ca.pem", "ca-key.pem"}
    authority = read(folder / "ca.pem")
    read(folder / "client.pem").verify_directly_issued_by(authority)
    assert outcome.ends["client.pem"] - expiry(folder / "worker.pem") == timedelta(0)
    assert (outcome.ends["client.pem"] - module.now()).days in {199, 200}
    assert f"ends on {outcome.ends['worker.pem']:%Y-%m-%d}, in " in outcome.text()


def test_no_certificate_outlives_its_authority(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AUTHORITY_DAYS", 10)
    outcome = certificates(str(folder), names=NAMES, days=90)
    assert set(outcome.ends.values()) == {expiry(folder / "ca.pem")}


def test_an_authority_that_has_ended_signs_nothing_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AUTHORITY_DAYS", 10)
    certificates(str(folder), names=NAMES)
    old, honest = contents(folder), module.now

    def later() -> datetime:
        return honest() + timedelta(days=11)

    monkeypatch.setattr(module, "now", later)
    with pytest.raises(CertificateError, match=r"ended on .* in another folder"):
        certificates(str(folder), names=NAMES)
    assert contents(folder) == old


@pytest.mark.parametrize(
    ("fate", "says"),
    [
        ("no key", "only with it can certificates be renewed"),
        ("damaged key", "only with it can certificates be renewed"),
        ("another's key", "is not the key of"),
        ("no certificate", "put ca.pem back"),
        ("damaged certificate", "no certificate that can be read"),
    ],
)
def test_an_authority_that_is_not_whole_is_neither_used_nor_replaced(
    folder: Path, fate: str, says: str
) -> None:
    certificates(str(folder), names=NAMES)
    ca, key = folder / "ca.pem", folder / "ca-key.pem"
    if fate == "no key":
        key.unlink()
    elif fate == "damaged key":
        key.write_bytes(key.read_bytes()[:60])
    elif fate == "another's key":
        shutil.copy(folder / "worker-key.pem", key)
    elif fate == "no certificate":
        ca.unlink()
    else:
        ca.write_text("nothing")
    old = contents(folder)
    with pytest.raises(CertificateError, match=says):
        certificates(str(folder), names=NAMES)
    assert contents(folder) == old


@pytest.mark.parametrize("name", ["smear-raum-ä", "../../x", "a b", "", "-a", "a..b", "a\n", "*"])
def test_a_name_that_is_none_is_refused_before_anything_is_made(folder: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="neither a host name nor an address"):
        certificates(str(folder), names=["night.example", name])
    assert not folder.exists()
