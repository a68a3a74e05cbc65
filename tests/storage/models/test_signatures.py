"""A store that asks for signatures takes files of the signers that it names, and no others."""

import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.models.signatures import ALLOWED, signer_of
from storage.store import Store, StoreError
from tests.support.needs import needs
from tests.support.signed import allow, armoured, signature

CONTENT = b"what a store of another laboratory exports"


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b"k" * 32)


@pytest.fixture
def store(tmp_path: Path, key: Ed25519PrivateKey) -> Store:
    store = Store(str(tmp_path / "store"))
    allow(store, key)
    return store


def signed(folder: Path, made: bytes | None) -> str:
    if made is not None:
        (folder / "file.sig").write_bytes(made)
    return str(folder / "file")


@pytest.mark.parametrize("hashed", ["sha256", "sha512"])
def test_a_file_that_an_allowed_key_signed_is_taken(
    hashed: str, store: Store, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    path = signed(tmp_path, signature(key, CONTENT, hashed=hashed))
    assert signer_of(store, path, CONTENT) == "kampala"


def test_a_store_that_does_not_ask_looks_for_no_signature(tmp_path: Path) -> None:
    assert signer_of(Store(str(tmp_path / "other")), str(tmp_path / "file"), CONTENT) is None


OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
WRONG: dict[str, tuple[Callable[[Ed25519PrivateKey], bytes | None], str]] = {
    "unsigned": (lambda _: None, "there is no .*file.sig"),
    "of a stranger": (lambda _: signature(OTHER, CONTENT), "is not in .*, which names kampala"),
    "on another file": (lambda key: signature(key, b"other"), "changed since it was signed"),
    "for something else": (lambda key: signature(key, CONTENT, b"git"), "without -n slidewatch"),
    "no signature": (lambda _: b"hello", "it is no OpenSSH signature"),
    "no base64": (lambda _: armoured(b"x")[:-30] + b"?" + armoured(b"x")[-28:], "no OpenSSH"),
    "cut short": (lambda _: armoured(b"SSHSIG\0\0\0\1\0\0"), "cut short"),
    "another hash": (lambda key: signature(key, CONTENT, hashed="md5"), "not made with an ssh-ed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_any_other_file_is_refused_in_a_sentence(
    name: str, store: Store, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    made, said = WRONG[name]
    with pytest.raises(StoreError, match=said) as error:
        signer_of(store, signed(tmp_path, made(key)), CONTENT)
    assert "\n" not in str(error.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_a_signature_or_of_the_file_is_taken(
    data: st.DataObject, store: Store, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    blob = b64decode(b"".join(signature(key, CONTENT).splitlines()[1:-1]))
    content, changed = bytearray(CONTENT), bytearray(blob)
    where = data.draw(st.sampled_from([content, changed]))
    where[data.draw(st.integers(0, len(where) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StoreError):
        signer_of(store, signed(tmp_path, armoured(bytes(changed))), bytes(content))


@pytest.mark.parametrize(
    "line", [b"kampala", b"a cert-authority ssh-ed25519 AAAA", b"a ssh-ed25519 ?"]
)
def test_a_list_of_signers_that_cannot_be_read_lets_nobody_in(
    line: bytes, store: Store, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    store.write_bytes(line + b"\n", *ALLOWED)
    with pytest.raises(StoreError, match="allowed_signers, line 1"):
        signer_of(store, signed(tmp_path, signature(key, CONTENT)), CONTENT)


@needs("ssh-keygen", shutil.which("ssh-keygen") is not None, "it is not installed")
def test_a_signature_of_ssh_keygen_is_known(tmp_path: Path) -> None:
    quiet = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(quiet, check=True)
    (tmp_path / "file").write_bytes(CONTENT)
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", "slidewatch", "-f", str(tmp_path / "key")]
    subprocess.run([*sign, str(tmp_path / "file")], check=True)
    store = Store(str(tmp_path / "store"))
    store.write_bytes(b"kampala " + (tmp_path / "key.pub").read_bytes(), *ALLOWED)
    assert signer_of(store, str(tmp_path / "file"), CONTENT) == "kampala"
    with pytest.raises(StoreError, match="changed since"):
        signer_of(store, str(tmp_path / "file"), CONTENT + b" ")
