"""Files signed as ssh-keygen signs them, and stores that ask for it."""

import hashlib
from base64 import b64decode, b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage.models.signatures import ALLOWED
from storage.store import Store


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def allow(store: Store, key: Ed25519PrivateKey) -> None:
    """Let a store ask for signatures, by this key."""
    store.write_bytes(b"# who may\n\nkampala " + public(key) + b" a comment\n", *ALLOWED)


def packed(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


def signature(
    key: Ed25519PrivateKey,
    content: bytes,
    namespace: bytes = b"slidewatch",
    hashed: str = "sha512",
) -> bytes:
    """Sign as ssh-keygen does, by PROTOCOL.sshsig."""
    fields = [namespace, b"", hashed.encode()]
    digest = hashlib.new(hashed, content).digest()
    signed = key.sign(b"SSHSIG" + b"".join(map(packed, [*fields, digest])))
    parts = [b64decode(public(key).split()[1]), *fields]
    parts.append(packed(b"ssh-ed25519") + packed(signed))
    return armoured(b"SSHSIG" + (1).to_bytes(4, "big") + b"".join(map(packed, parts)))


def armoured(blob: bytes) -> bytes:
    text = b64encode(blob)
    lines = [text[i : i + 70] for i in range(0, len(text), 70)]
    return b"\n".join(
        [b"-----BEGIN SSH SIGNATURE-----", *lines, b"-----END SSH SIGNATURE-----", b""]
    )
