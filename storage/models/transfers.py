"""Carry statistics between stores in one file with a header and digests, but no images."""

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from storage.arrays import Arrays, arrays_from_bytes, arrays_to_bytes
from storage.models.sites import SiteCard
from storage.models.statistics import Contribution
from storage.records import Record
from storage.store import AlreadyExistsError, Store, StoreError, digest_of

HEADER = "header"
Kind = Literal["statistics", "site"]


class Transfer(Record):
    """The header of a file: its kind, its model, and the digest of its arrays.

    ``contributions`` are the batches of class statistics; the arrays of the n-th are named n.
    ``site`` is the card of a site, its fields unchanged.
    """

    schema_version: int = 2  # before 2 a site's file repeated its detector's arrays

    kind: Kind
    model: str
    model_digest: str
    digest: str
    contributions: tuple[Contribution, ...] = ()
    site: dict[str, Any] | None = None


def write_transfer(path: str, header: Transfer, arrays: Arrays) -> None:
    """Write a file to this machine's disk; StoreError if it exists."""
    fields = header.model_copy(update={"digest": digest_of(arrays_to_bytes(arrays))})
    text = fields.model_dump_json().encode()
    content = arrays_to_bytes({**arrays, HEADER: np.frombuffer(text, np.uint8)})
    try:
        with Path(path).open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise StoreError(f"{path} is there already: choose another --to") from None


def transfer_bytes(path: str) -> bytes:
    """Read a file; StoreError if it does not exist."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise StoreError(
            f"{path} is a folder: name the file that site export has written"
        ) from None


def read_transfer(path: str, content: bytes) -> tuple[Transfer, Arrays]:
    """Parse the content of a file; messages name it by its path.

    Raises:
        StoreError: it is not such a file, is damaged, or is from a newer slidewatch.
    """
    try:
        arrays = arrays_from_bytes(content)
        text = arrays.pop(HEADER).tobytes()
        header = Transfer.model_validate_json(text)
    except (KeyError, RecursionError, ValidationError, StoreError):
        raise StoreError(
            f"{path} is no file of slidewatch site export, or is damaged: export it again"
        ) from None
    known: int = Transfer.model_fields["schema_version"].default
    if header.schema_version > known:
        raise StoreError(
            f"{path} was written by a newer slidewatch (schema version {header.schema_version}, "
            f"this one knows {known}): update slidewatch"
        )
    if digest_of(arrays_to_bytes(arrays)) != header.digest:
        raise StoreError(f"{path} is damaged (sha256 differs): copy or export it again")
    return header, arrays


def pseudonym_key(store: Store) -> bytes:
    """Return the store's secret key for pseudonyms; it never leaves the store.

    It is made at the first export and kept, so that a patient has the same pseudonym in every
    export.
    """
    path = ("federation", "pseudonyms.json")
    if not store.exists(*path):
        made = {"schema_version": 1, "key": secrets.token_hex(32)}
        with suppress(AlreadyExistsError):  # another export has just made it
            store.write_json(made, *path, once=True)
    try:
        return bytes.fromhex(store.read_json(*path)["key"])
    except (KeyError, TypeError, ValueError):
        raise StoreError(
            f"{store.address(*path)} holds no key: restore it from a backup, or remove it, and "
            "patients get new pseudonyms from now on"
        ) from None


def site_of(header: Transfer) -> SiteCard:
    """Read the card of the site in a file; StoreError names a field of the wrong type."""
    try:
        return SiteCard.model_validate(header.site)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"the file's site: {where}: {first['msg']}") from None
