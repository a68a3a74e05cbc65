"""Run the command `certificates`: make an authority of one's own and certificates for Dask.

Dask asks both ends of a connection for a certificate of the authority that it was given, and does
not compare names. It lets in every machine that holds such a certificate, so the authority must be
for one cluster alone. A client's certificate does not pass for a scheduler's or a worker's.
"""

import os
import re
import tempfile
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flows.cluster.tls import CertificateError, expiry, read_certificate
from flows.options.taking import takes
from flows.options.tools import Certificates
from flows.outcome import Outcome, table
from flows.settings import Settings
from storage.records import now

CA, CA_KEY = "ca.pem", "ca-key.pem"
PEM = serialization.Encoding.PEM
CURVE = ec.SECP256R1()
# Scheduler and workers are called, and call one another; a client only calls.
CALLED = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
CALLS = [ExtendedKeyUsageOID.CLIENT_AUTH]
ROLES = {"scheduler": CALLED, "worker": CALLED, "client": CALLS}
# Labels of a host name (RFC 1123), the first of which may be any (RFC 6125).
HOST = re.compile(r"(\*\.)?(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
AUTHORITY_DAYS = 3650  # every machine must get a new authority: that is seldom done
CLOCKS = timedelta(hours=1)  # that machines' clocks may differ


class CertificatesOutcome(Outcome):
    """The certificates of a folder, and when they end."""

    folder: str
    made_authority: bool
    ends: dict[str, datetime]

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        did = "made an authority and certificates" if self.made_authority else "renewed"
        rows: list[tuple[str, object]] = [
            (name, f"ends on {end:%Y-%m-%d}, in {(end - now()).days} days")
            for name, end in self.ends.items()
        ]
        return (
            f"{self.folder}: {did}\n{table(rows)}\n"
            f"give a machine {CA} and the pair of its role; keep {CA_KEY} away from all of them"
        )


@takes(Certificates)
def certificates(options: Certificates, settings: Settings) -> CertificatesOutcome:
    """An authority that is there stays, so that certificates from before and after work together.

    Raises:
        CertificateError: the authority that is there cannot be used.
    """
    for name in options.names:
        _general(name)  # before anything is written
    to, moment = Path(options.folder).absolute(), now()
    to.mkdir(parents=True, exist_ok=True)
    made_authority = not (to / CA).exists()
    if made_authority:
        _make_authority(to, moment, moment + timedelta(days=AUTHORITY_DAYS))
    authority, key = _read_authority(to)
    ends = authority.not_valid_after_utc
    if ends <= moment:
        raise CertificateError(
            f"the authority {to / CA} ended on {ends:%Y-%m-%d}: make another in another folder, "
            "give its certificates to every machine, and restart all of them"
        )
    until = min(moment + timedelta(days=options.days), ends)
    for role, uses in ROLES.items():
        _make_certificate(to, role, uses, options.names, authority, key, moment, until)
    return CertificatesOutcome(
        folder=str(to),
        made_authority=made_authority,
        ends={name: expiry(to / name) for name in (CA, *(f"{role}.pem" for role in ROLES))},
    )


def _make_authority(to: Path, moment: datetime, until: datetime) -> None:
    """Make the authority's key and self-signed certificate; neither replaces a file."""
    key = ec.generate_private_key(CURVE)
    name = _name(f"slidewatch's authority of {moment:%Y-%m-%d}")
    usage = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
            "key_agreement", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key, moment, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage),
            critical=True,
        )
        .add_extension(_key_id(key), critical=False)
        .sign(key, hashes.SHA256())
    )
    try:
        _write(to / CA_KEY, _pem_of_key(key), mode=0o600, replace=False)
        _write(to / CA, certificate.public_bytes(PEM), mode=0o644, replace=False)
    except FileExistsError as error:
        raise CertificateError(
            f"{error.filename2} is there already, but not the whole authority: put {CA} back "
            "next to its key, or choose another folder"
        ) from None


def _make_certificate(
    to: Path,
    role: str,
    uses: list[x509.ObjectIdentifier],
    names: list[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    moment: datetime,
    until: datetime,
) -> None:
    key = ec.generate_private_key(CURVE)
    certificate = (
        _builder(_name(f"slidewatch {role}"), authority.subject, key, moment, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        .add_extension(_key_id(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    _write(to / f"{role}-key.pem", _pem_of_key(key), mode=0o600)
    _write(to / f"{role}.pem", certificate.public_bytes(PEM), mode=0o644)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    moment: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - CLOCKS)
        .not_valid_after(until)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    if len(name) > 253 or not HOST.fullmatch(name):
        raise CertificateError(
            f"{name!r} is neither a host name nor an address: give names such as night.example, "
            "*.workers.example or 10.0.0.5, with commas between them"
        )
    return x509.DNSName(name)


def _key_id(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _read_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = read_certificate(folder / CA)
    try:
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # not there, damaged, under a password
        raise CertificateError(
            f"{folder / CA_KEY} cannot be read ({error}): only with it can certificates be renewed"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise CertificateError(f"{folder / CA_KEY} is not the key of {CA} next to it")
    return certificate, key


def _write(path: Path, content: bytes, *, mode: int, replace: bool = True) -> None:
    """Write a file, complete or not at all, never readable by more people than ``mode`` says."""
    descriptor, stage = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # its mode is 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(stage).chmod(mode)
        if replace:
            Path(stage).replace(path)
        else:
            os.link(stage, path)
    finally:
        Path(stage).unlink(missing_ok=True)
