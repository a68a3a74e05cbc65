"""Verify the OpenSSH signature of an imported file, if the store asks for signatures.

A store asks for them if it has ``federation/allowed_signers``, a file for ssh-keygen with a name
and an ed25519 key per line. ``ssh-keygen -Y sign -n slidewatch -f KEY FILE`` signs a file and
writes the signature next to it. OpenSSH's PROTOCOL.sshsig describes the format.
"""

import binascii
import hashlib
from base64 import b64decode
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from storage.store import Store, StoreError

ALLOWED = ("federation", "allowed_signers")
NAMESPACE = b"slidewatch"  # so that a signature on a commit, say, is not valid for a file
KEY = b"ssh-ed25519"
MAGIC = b"SSHSIG"
VERSION = (1).to_bytes(4, "big")
HASHES = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
BEGIN, END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"


def signer_of(store: Store, path: str, content: bytes) -> str | None:
    """Return the name of a file's signer; None if the store asks for no signature.

    The file's signature is in ``<path>.sig``.

    Raises:
        StoreError: the file is not signed, or its signer is not allowed.
    """
    if not store.exists(*ALLOWED):
        return None
    names = _allowed(store)
    signature = Path(f"{path}.sig")
    asks = f"{store.url} takes signed files only"
    if not signature.is_file():
        raise StoreError(
            f"{asks}, and there is no {signature}: its maker signs it with ssh-keygen -Y sign -n "
            f"{NAMESPACE.decode()} -f KEY {path}"
        )
    try:
        key = _signing_key(signature.read_bytes(), content)
    except (ValueError, InvalidSignature) as error:
        reason = str(error) or "the file has changed since it was signed"
        raise StoreError(f"{asks}, and {signature} is no signature of {path}: {reason}") from None
    if key not in names:
        raise StoreError(
            f"{asks}, and the key that signed {path} is not in {store.address(*ALLOWED)}, which "
            f"names {', '.join(sorted(set(names.values()))) or 'nobody'}"
        )
    return names[key]


def _allowed(store: Store) -> dict[bytes, str]:
    """Read the names of allowed signers, by key."""
    found = {}
    text = store.read_bytes(*ALLOWED).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if len(words) < 3 or words[1] != KEY.decode() or not words[0].isprintable():
                raise ValueError
            found[b64decode(words[2], validate=True)] = words[0]
        except ValueError:
            raise StoreError(
                f"{store.address(*ALLOWED)}, line {number}: a line has a name, {KEY.decode()} and "
                "a key, and options are not known here"
            ) from None
    return found


def _signing_key(armoured: bytes, content: bytes) -> bytes:
    """Return the public key whose signature on the content this is.

    Raises:
        ValueError: it is not an OpenSSH signature of the right kind.
        InvalidSignature: it is a signature on other content.
    """
    lines = armoured.split()
    text = b" ".join(lines)
    if not text.startswith(BEGIN) or not text.endswith(END):
        raise ValueError("it is no OpenSSH signature")
    try:
        blob = b64decode(b"".join(text[len(BEGIN) : -len(END)].split()), validate=True)
    except binascii.Error:
        raise ValueError("it is no OpenSSH signature") from None
    if not blob.startswith(MAGIC + VERSION):
        raise ValueError("it is no OpenSSH signature")
    public, namespace, reserved, hashed, signature = _strings(blob[len(MAGIC + VERSION) :], 5)
    if namespace != NAMESPACE:
        raise ValueError(f"it was made without -n {NAMESPACE.decode()}")
    kind, raw = _strings(public, 2)
    signed_as, by = _strings(signature, 2)
    if (kind, signed_as) != (KEY, KEY) or hashed not in HASHES:
        raise ValueError(f"it was not made with an {KEY.decode()} key (ssh-keygen -t ed25519)")
    digest = HASHES[hashed](content).digest()
    parts = (namespace, reserved, hashed, digest)
    message = MAGIC + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    Ed25519PublicKey.from_public_bytes(raw).verify(by, message)
    return public


def _strings(blob: bytes, count: int) -> list[bytes]:
    """Divide bytes into ``count`` strings, each preceded by its length in 4 bytes."""
    found, at = [], 0
    for _ in range(count):
        size = int.from_bytes(blob[at : at + 4], "big")
        found.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(blob):
        raise ValueError("it is cut short or too long")
    return found
