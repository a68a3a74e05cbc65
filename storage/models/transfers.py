"""Carry statistics between stores, in one file with a header and digests; no image, no cell."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from storage.arrays import Arrays, arrays_from_bytes, arrays_to_bytes
from storage.models.sites import SiteCard
from storage.models.statistics import Contribution
from storage.records import Record
from storage.store import StoreError, digest_of

HEADER = "header"
Kind = Literal["statistics", "site"]


class Transfer(Record):
    """The header of a file: what it carries, of which model, and the digest of its arrays.

    ``contributions`` are the batches of class statistics, the n-th one's arrays under the name n;
    ``site`` is the card of a site, with its fields as they were.
    """

    kind: Kind
    model: str
    model_digest: str
    digest: str
    contributions: tuple[Contribution, ...] = ()
    site: dict[str, Any] | None = None


def write_transfer(path: str, header: Transfer, arrays: Arrays) -> None:
    """Write a file to this machine's disk; StoreError where there is one already."""
    fields = header.model_copy(update={"digest": digest_of(arrays_to_bytes(arrays))})
    text = fields.model_dump_json().encode()
    content = arrays_to_bytes({**arrays, HEADER: np.frombuffer(text, np.uint8)})
    try:
        with Path(path).open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise StoreError(f"{path} is there already: choose another --to") from None


def read_transfer(path: str) -> tuple[Transfer, Arrays]:
    """Read a file; StoreError where it is none of these, damaged, or of a newer slidewatch."""
    try:
        arrays = arrays_from_bytes(Path(path).read_bytes())
        text = arrays.pop(HEADER).tobytes()
        header = Transfer.model_validate_json(text)
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}") from None
    except (KeyError, ValidationError, StoreError):
        raise StoreError(
            f"{path} is no file of slidewatch site export, or is damaged: export it again"
        ) from None
    if digest_of(arrays_to_bytes(arrays)) != header.digest:
        raise StoreError(f"{path} is damaged (sha256 differs): copy or export it again")
    return header, arrays


def site_of(header: Transfer) -> SiteCard:
    """Read the card of the site that a file carries."""
    return SiteCard.model_validate(header.site)
